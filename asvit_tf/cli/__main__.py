"""`python -m asvit_tf.cli`."""

from asvit_tf.cli.app import entry_point

entry_point()
