"""Private names of other libraries: each exists as it is used, and the code uses no other."""

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import tensorflow as tf
from helpers import ROOT

import asvit_tf
import search
from asvit_tf import private_names

# What only tests and benchmarks use, as in `private_names.NAMES`.
ELSEWHERE = {
    "tensorflow:distribute.MirroredStrategy._collective_key_base": (
        "tensorflow.python.distribute.mirrored_strategy:MirroredExtended.__init__",
    ),
    "tensorflow.python.framework.func_graph:FuncGraph": (),
    "tensorflow.python.framework.ops:get_stats_for_node_def": ("graph", "node", "statistic_type"),
}
NAMES = {**private_names.NAMES, **ELSEWHERE}
# Where a private name, or a module without a promise, may stand in the code.
USES = {
    "asvit_tf/private_names.py": {
        "_registry",
        "_flatten_layers",
        "_create_all_weights",
        "_MAX_MEMORY_LEAK_SIZE",
        "tensorflow.python.eager",
        "tensorflow.python.framework",
        "joblib.externals.loky",
        "jaxlib",
        "jaxlib.mlir",
    },
    "asvit_tf/training/runner.py": {"_mode", "_maybe_build_checkpoint_manager"},
    "asvit_tf/training/saving/sound.py": {"_last_checkpoint_step"},
    "asvit_tf/training/trainer.py": {"_checkpoint_exporter"},
    "asvit_tf/serving/modules.py": {
        "_num_channels",
        "_input_image_size",
        "_input_type",
        "_decode_image",
        "_crop_and_resize",
        "_decode_tf_example",
        "_build_inputs",
    },
    "search/runs/workers.py": {"joblib.externals.loky"},
    "tests/helpers.py": {"_collective_key_base"},
    "tests/serving/test_export.py": {"_decode_image", "_crop_and_resize"},
    "tests/serving/test_large_photographs.py": {"_build_model", "_build_inputs"},
    "tests/search/scoring/test_scoring.py": {"tensorflow.python.framework"},
    "benchmarks/detection/detector_counts.py": {"tensorflow.python.framework"},
}
_UNPROMISED = re.compile(r"tensorflow\.python\b|jaxlib\b|joblib\.externals\b|.*\b_[a-z]")
_OURS = ("asvit_tf", "search")


def found(path):
    """What a name "module:a.b" stands for."""
    module, _, names = path.partition(":")
    value = importlib.import_module(module)
    for name in names.split("."):
        value = getattr(value, name)
    return value


def names_in(function):
    """Every name that a function's code sets or reads."""
    return {*inspect.unwrap(function).__code__.co_names, *inspect.unwrap(function).__code__.co_freevars}


@pytest.mark.parametrize("path", NAMES)
def test_the_name_is_there_as_it_is_used(path):
    if path.startswith("jax"):
        pytest.importorskip("libtpu")
    details = NAMES[path]
    if any(":" in detail for detail in details):  # A value, of a module or of every object of a class.
        assert all(re.split(r"[.:]", path)[-1] in names_in(found(detail)) for detail in details), path
        if f"{path.rpartition('.')[0]}.__init__" not in details:  # Else only objects have it.
            found(path)
        return
    value = found(path)
    if details:
        assert tuple(inspect.signature(value).parameters) == details


def test_custom_gradients_are_registered_under_the_prefix_that_is_forgotten():
    from asvit_tf import traces

    @tf.custom_gradient
    def double(x):
        return 2 * x, lambda upstream: 2 * upstream

    registered = private_names.gradient_registry()
    before = set(registered)
    with traces.forgotten():
        tf.function(double, autograph=False).get_concrete_function(tf.TensorSpec((), tf.float32))
        (added,) = set(registered) - before
        assert added.startswith("CustomGradient-")
    assert set(registered) == before


def is_private(name):
    promised = name in ("_fields", "_replace", "_asdict", "_make")  # Of named tuples.
    return name.startswith("_") and not name.startswith("__") and not name.endswith("_") and not promised


def ours(trees):
    """Private names that this repository defines: functions, classes, modules' values, and attributes set on self."""
    names = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.update([node.attr] if ast.unparse(node.value) == "self" else [])
    return names - {re.split(r"[.:]", path)[-1] for path in NAMES}


def uses(tree, own):
    """Private names, and modules without a promise, that a file uses and the repository does not define."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "os"):
            names = [node.attr]
        elif isinstance(node, ast.FunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Call):  # getattr(thing, "_name") and its like.
            strings = (part.value for part in node.args[1:] if isinstance(part, ast.Constant))
            names = [name for name in strings if isinstance(name, str) and name.isidentifier()]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _UNPROMISED.match(alias.name))
            continue
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            if _UNPROMISED.match(node.module):
                yield node.module
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if is_private(name) and name not in own)


def test_the_code_uses_the_listed_names_only_and_each_where_it_is_listed():
    files = [
        path for folder in ("asvit_tf", "search", "tests", "benchmarks") for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in files}
    own = ours(trees.values())
    used = {path: set(uses(tree, own)) for path, tree in trees.items() if not path.endswith(Path(__file__).name)}
    assert {path: names for path, names in used.items() if names} == USES


def test_every_override_of_a_private_method_is_listed():
    """A library that renames one would leave ours uncalled, without an error."""
    overridden = set()
    for package in (asvit_tf, search):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__") or module.name in ("asvit_tf.train", "asvit_tf.trainer"):
                continue
            for cls in vars(importlib.import_module(module.name)).values():
                if not inspect.isclass(cls) or cls.__module__ != module.name:
                    continue
                own = [base for base in cls.__mro__ if base.__module__.split(".")[0] in _OURS]
                foreign = {name for base in cls.__mro__ if base not in own for name in vars(base)}
                methods = {name for base in own for name, value in vars(base).items() if inspect.isfunction(value)}
                overridden |= {name for name in methods & foreign if is_private(name)}
    assert overridden == {"_maybe_build_checkpoint_manager", "_decode_image", "_crop_and_resize", "_build_inputs"}
    assert overridden <= {re.split(r"[.:]", path)[-1] for path in private_names.NAMES}
