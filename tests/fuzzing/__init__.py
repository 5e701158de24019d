"""Inputs as nobody would write them, drawn by hypothesis, and what must hold for all of them.

The tests draw a few, `benchmarks/data/fuzz.py` thousands. Each function `..._case` runs one case in this process and
returns what became of it: "read", "refused" or, where one file of several is left out, "counted". Anything but a
`UserError` of one line comes through.
"""

from fuzzing.annotation_files import annotated, annotations_case, mutations
from fuzzing.image_bytes import image_files, images_case
from fuzzing.names import NAMES, paths_case
from fuzzing.settings import TOPOLOGIES, experiments, topology_case, yaml_case

__all__ = [
    "NAMES",
    "TOPOLOGIES",
    "annotated",
    "annotations_case",
    "experiments",
    "image_files",
    "images_case",
    "mutations",
    "paths_case",
    "topology_case",
    "yaml_case",
]
