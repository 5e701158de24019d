"""Names that others import or run: every one stays where it is."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from importlib import metadata

import pytest
from helpers import ROOT

NAMES = {
    "asvit_tf": "AsViT RetokenizationCallback Schedule Tokenization Topology build_classifier",
    "asvit_tf.reference_weights": "build_classifier load ntk_variables pooled_features",
    "asvit_tf.complexity": "Circle compile_measure measure",
    "asvit_tf.ntk": "condition_number gram",
    "asvit_tf.trainer": "RetokenizingTrainer",
    "asvit_tf.train": "run",
}
# What others pass: a parameter that is renamed or moved breaks them.
PARAMETERS = {
    "asvit_tf.reference_weights.build_classifier": ["topology", "image_size", "num_classes", "position_embedding"],
    "asvit_tf.reference_weights.load": ["model", "state_dict"],
    "asvit_tf.reference_weights.pooled_features": ["model", "images", "normalization"],
    "asvit_tf.reference_weights.ntk_variables": ["model"],
    "asvit_tf.complexity.Circle": ["u0", "u1", "radius", "theta"],
    "asvit_tf.complexity.measure": ["fn", "circle"],
    "asvit_tf.complexity.compile_measure": ["fn"],
    "asvit_tf.ntk.gram": ["fn", "variables", "images"],
    "asvit_tf.ntk.condition_number": ["gram"],
    "asvit_tf.AsViT": ["topology", "input_specs", "position_embedding", "normalization", "tokenization", "window"],
    "asvit_tf.RetokenizationCallback": ["schedule", "backbone"],
    "asvit_tf.build_classifier": ["topology", "num_classes", "image_size", "position_embedding"],
}
COMMANDS = (
    *("complexity", "describe", "detect", "detect-run", "doctor", "evaluate", "export", "grow", "predict", "prepare"),
    *("prepare-coco", "prepare-segmentation", "report", "run", "search", "segment", "segment-run", "shapes"),
    *("study", "tpu-check", "train"),
)


def in_a_process(*arguments):
    """Standard output of this Python, run outside the repository's directory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    finished = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd="/", check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in NAMES.items() for name in names.split()]
)
def test_names_can_be_imported(module, name):
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("path", PARAMETERS)
def test_parameters_keep_their_names_and_places(path):
    module, _, name = path.rpartition(".")
    parameters = list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    assert parameters[: len(PARAMETERS[path])] == PARAMETERS[path]


def test_every_lazy_name_is_there():
    import asvit_tf

    for name in asvit_tf.__all__:
        assert getattr(asvit_tf, name).__name__ == name
    for name in ("complexity", "ntk", "reference_weights"):
        assert getattr(asvit_tf, name).__name__ == f"asvit_tf.{name}"
    with pytest.raises(AttributeError, match="module 'asvit_tf' has no attribute 'nothing'"):
        asvit_tf.nothing  # noqa: B018


def test_registrations_make_the_model_garden_know_the_experiments():
    from official.core import exp_factory

    importlib.import_module("asvit_tf.registry_imports")
    for name in ("asvit_digits", "asvit_imagenet", "retinanet_asvit_coco", "cascadercnn_asvit_coco"):
        assert exp_factory.get_exp_config(name).task.model.backbone.type == "asvit"


def test_the_package_and_describe_need_no_tensorflow():
    code = (
        "import sys, asvit_tf\n"
        "from asvit_tf.cli import app\n"
        "asvit_tf.Topology.parse('small'), asvit_tf.Schedule.preset('thirds', 300, 8)\n"
        "assert app.main(['describe', 'small', '--json']) == 0\n"
        "print([name for name in ('tensorflow', 'tf_keras', 'official', 'orbit', 'jax') if name in sys.modules])"
    )
    assert in_a_process("-c", code).splitlines()[-1] == "[]"


def test_the_module_train_runs():
    assert "--experiment" in in_a_process("-m", "asvit_tf.train", "--help")


def test_the_commands_exist():
    from asvit_tf.cli import app

    assert sorted(app.cli.commands) == list(COMMANDS)
    for name in app.cli.commands:
        assert app.main([name, "--help"]) == 0
    scripts = metadata.entry_points(group="console_scripts", name="asvit")
    assert [script.value for script in scripts] == ["asvit_tf.cli.app:entry_point"]


def test_help_names_the_thing():
    """A text begins with what the option is, not with "Of"."""
    from asvit_tf.cli import app

    for name, command in app.cli.commands.items():
        for option in command.params:
            assert not (getattr(option, "help", None) or "").startswith("Of "), f"{name} {option.name}"


def test_one_version():
    import asvit_tf

    stated = re.search(r'version="([^"]+)"', (ROOT / "setup.py").read_text())
    assert stated is not None
    assert stated.group(1) == asvit_tf.__version__
