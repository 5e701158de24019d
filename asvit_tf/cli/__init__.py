"""The command line. Within the package it alone imports `search`."""

from asvit_tf.cli.app import cli, entry_point, main

__all__ = ["cli", "entry_point", "main"]
