"""What several test files need: the golden networks, devices, small networks, records, a full disk."""

import contextlib
import functools
import itertools
import json
import os
import resource
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from pycocotools import mask as mask_tools

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "data"
CONFIGS = ROOT / "official_configs"
TINY = "4,2,2|2,2,2|2,1,2|2,1,2|8,8"
TINY_DETECTOR = "4,8,2|2,4,2|2,1,2|2,1,2|8,16"
GOLDEN = ("seed_h8_64", "ape_h12_96", "windows_h8_64")
COUNTS = json.loads((DATA / "counts.json").read_text())

MALFORMED = {
    "empty": "",
    "one number": "8",
    "unknown name": "huge",
    "missing part": "8,2,3|4,1,2|4,1,4|32",
    "extra part": "8,2,3|4,1,2|4,1,4|4,1,6|4,1,6|32",
    "two numbers in a stage": "8,2|4,1,2|4,1,4|4,1,6|32",
    "five numbers in a stage": "8,2,3,1,1|4,1,2|4,1,4|4,1,6|32",
    "letter": "8,2,x|4,1,2|4,1,4|4,1,6|32",
    "decimal": "8,2,3.0|4,1,2|4,1,4|4,1,6|32",
    "negative": "8,2,-3|4,1,2|4,1,4|4,1,6|32",
    "zero kernel": "0,2,3|4,1,2|4,1,4|4,1,6|32",
    "zero splits": "8,0,3|4,1,2|4,1,4|4,1,6|32",
    "zero depth": "8,2,3,0|4,1,2|4,1,4|4,1,6|32",
    "zero heads": "8,2,3|4,1,2|4,1,4|4,1,6|0",
    "heads not divisible by 8": "8,2,3|4,1,2|4,1,4|4,1,6|30",
    "more heads than channels": "8,2,3|4,1,2|4,1,4|4,1,6|64,4",
    "width over the cap": "8,2,3|4,1,2|4,1,4|4,1,6|32,2048",
    "huge number": "8,2,99999999999|4,1,2|4,1,4|4,1,6|32",
    "trailing comma": "8,2,3,|4,1,2|4,1,4|4,1,6|32",
    "other digits": "\uff18,2,3|4,1,2|4,1,4|4,1,6|32",
}

_KEYS = itertools.count(0, 1000)


class Golden:
    """One network of the released implementation: its description, arrays and, loaded into ours, its weights."""

    def __init__(self, name):
        self.scalars = json.loads((DATA / f"{name}.json").read_text())
        with np.load(DATA / f"{name}.npz") as arrays:
            self.arrays = dict(arrays)

    @property
    def state_dict(self):
        prefix = "weights/"
        return {name[len(prefix) :]: array for name, array in self.arrays.items() if name.startswith(prefix)}

    def images(self, name="input_nchw"):
        return tf.constant(self.arrays[name].transpose(0, 2, 3, 1))

    def model(self):
        from asvit_tf import Topology
        from asvit_tf.modeling import reference_weights

        return reference_weights.build_classifier(
            Topology.parse(self.scalars["arch"]),
            self.scalars["img"],
            self.scalars["num_classes"],
            self.scalars["ape"],
        )

    def loaded(self):
        from asvit_tf.modeling import reference_weights

        model = self.model()
        reference_weights.load(model, self.state_dict)
        return model

    def circle(self, radius):
        from asvit_tf.measures import complexity

        side = self.scalars["img"]
        u0, u1 = self.arrays["curve_u_chw"].T.reshape(2, 3, side, side).transpose(0, 2, 3, 1)
        length = 1.0 if radius == "unit" else (3 * side**2) ** 0.5
        return complexity.Circle(u0, u1, length, self.arrays["theta"])


def two_devices():
    """A mirrored strategy over two devices of this machine, whose collectives share no key with those of another.

    TensorFlow counts keys from the same number for every strategy, and remembers a tensor's shape by its key.
    """
    tf.distribute.MirroredStrategy._collective_key_base = next(_KEYS)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


class FakeGpus:
    """A TensorFlow that lists GPUs, as long as a test lasts.

    Args:
      monkeypatch: Of the test.
      gpus: `hardware.choice.Gpu`, in order.

    Attributes:
      grows: Each GPU that was told whether its memory grows, with that.
      visible: What was to stay visible, and of which kind; None where nothing was said.
    """

    def __init__(self, monkeypatch, *gpus):
        self.grows, self.visible = [], None
        by_name = {f"GPU:{number}": gpu for number, gpu in enumerate(gpus)}

        def details(name):
            return {"device_name": by_name[name].name, "compute_capability": by_name[name].capability}

        def show(devices, kind):
            self.visible = devices, kind

        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(by_name) if kind == "GPU" else [])
        monkeypatch.setattr(tf.config, "set_visible_devices", show)
        experimental = tf.config.experimental
        monkeypatch.setattr(experimental, "get_device_details", details)
        monkeypatch.setattr(experimental, "set_memory_growth", lambda name, grows: self.grows.append((name, grows)))
        from asvit_tf.training import strategies

        # Strategies of these GPUs are not those of another test.
        monkeypatch.setattr(strategies, "_mirrored", functools.cache(strategies._mirrored.__wrapped__))


def relative_error(actual, expected):
    """Largest difference over the largest expected magnitude."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return np.abs(actual - expected).max() / np.abs(expected).max()


@contextlib.contextmanager
def files_no_larger_than(size):
    """A disk that is full for large files, as the operating system can pretend."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def records(path, labels, image=None):
    """TFRecords of random JPEGs with these labels."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i, label in enumerate(labels):
            pixels = np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8)
            feature = {
                "image/encoded": tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[image or tf.io.encode_jpeg(pixels).numpy()])
                ),
                "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def digits_experiment(digits, steps, block, *overrides):
    """A training of a tiny network on the digits.

    Args:
      digits: A `dataloaders.classification.Dataset`.
      steps: Steps in all; the learning rate falls over them, after two of warm-up.
      block: Steps in a block, and between two checkpoints.
      overrides: What else is different, in order.
    """
    from official.core import exp_factory

    from asvit_tf import registry_imports  # noqa: F401

    params = exp_factory.get_exp_config("asvit_digits")
    training = {"input_path": digits.train_path, "global_batch_size": 16, "dtype": "float32"}
    held_out = {"input_path": digits.validation_path, "global_batch_size": 180, "dtype": "float32"}
    base = {
        "runtime": {"distribution_strategy": "one_device", "num_gpus": 0, "mixed_precision_dtype": "float32"},
        "task": {
            "seed": 0,
            "model": {"backbone": {"asvit": {"topology": TINY}}},
            "train_data": training,
            "validation_data": {**held_out, "drop_remainder": False},
        },
        "trainer": {
            "train_steps": steps,
            "steps_per_loop": block,
            "summary_interval": block,
            "checkpoint_interval": block,
            "optimizer_config": {
                "learning_rate": {"cosine": {"decay_steps": steps}},
                "warmup": {"linear": {"warmup_steps": 2}},
            },
        },
    }
    for override in (base, *overrides):
        params.override(override, is_strict=True)
    cosine = params.trainer.optimizer_config.learning_rate.cosine
    if cosine.decay_steps == steps:
        cosine.decay_steps = params.trainer.train_steps
    return params


def compressed(whole):
    """A mask [H, W] as COCO's compressed run lengths."""
    rle = mask_tools.encode(np.asfortranarray(whole))
    return dict(size=rle["size"], counts=rle["counts"].decode())


def three_classes(examples):
    """A data set that is named only."""
    from asvit_tf.dataloaders.classification import Dataset

    return Dataset("data", ("cat", "dog", "owl"), examples, 20)


def planned(examples=1300, **options):
    """The training of a tiny network on so many photographs."""
    from asvit_tf import Topology
    from asvit_tf.tasks import plans

    plan = plans.Plan((32, 48), seed=5, **{"base_stride": 2, "recipe": "photographs", **options})
    return plans.classifier(plan, three_classes(examples), Topology.parse(TINY))


FONTS = OWN_FONT, OTHER_FONT = "DejaVu Sans", "STIXGeneral"  # Both come with matplotlib.


@contextlib.contextmanager
def only_its_fonts(monkeypatch):
    """Fonts that come with matplotlib are installed, and no others, whatever this machine has."""
    from asvit_tf.serving import installed_fonts

    monkeypatch.setattr(installed_fonts, "_families", lambda: FONTS)
    installed_fonts.fallbacks.cache_clear()
    yield
    installed_fonts.fallbacks.cache_clear()


def characters(font):
    """Code points that a font has."""
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    return set(FT2Font(findfont(FontProperties(family=font))).get_charmap())
