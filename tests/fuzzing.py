"""Inputs as nobody would write them, drawn by hypothesis, and what must hold for all of them.

The tests draw a few, `benchmarks/data/fuzz.py` thousands. Each function runs one case in this process and returns what
became of it: "read", "refused" or, where one file of several is left out, "counted". Anything but a `UserError` of one
line comes through.
"""

from __future__ import annotations

import copy
import io
import json
import os
import shlex
import shutil
import zlib
from pathlib import Path

import click
import numpy as np
import tensorflow as tf
import yaml
from hypothesis import strategies as st
from official.core import exp_factory, input_reader, train_utils
from official.vision.dataloaders import tf_example_decoder
from PIL import ExifTags, Image

from asvit_tf import storage
from asvit_tf.cli import data as prepare_command
from asvit_tf.cli.options import PathName
from asvit_tf.dataloaders import classification, coco, experiment_yaml, inputs
from asvit_tf.dataloaders.imagefiles import door
from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError
from asvit_tf.modeling import checkpoints
from asvit_tf.tasks import checks, experiment_files
from asvit_tf.training import run as training

WIDTH, HEIGHT, IMAGES = 24, 16, 3

# ------------------------------------------------------------------------------------------------- annotations

_NUMBERS = [0, 1, -1, 3, 24, 24.0, 0.5, 1e9, -1e9, 1e300, 2**63, 10**400, float("nan"), float("inf"), "7", " 7 ", "1e3"]
_SCALARS = st.sampled_from([*_NUMBERS, None, True, False, "", "x", "\ud83d", "a\0b", "\u202e", [], {}, [[]], [None]])
_COORDINATE = st.sampled_from([-3, 0, 0.5, 5, 10, 23.999, 24, 30, 1e9, -1e9, 1e300, "4", None, float("nan")])
_COUNTS = st.one_of(
    st.lists(st.sampled_from([0, 1, 5, 16, 368, 384, -1, 0.5, "3", 2**40]), max_size=6),
    st.text("0123456789:;<=>?@ABCoPQ\\~b'\u00e9", max_size=12),
    _SCALARS,
)
_SEGMENTATIONS = st.one_of(
    st.lists(st.lists(_COORDINATE, max_size=9), max_size=3),
    st.lists(_COORDINATE, max_size=9),
    st.lists(st.lists(st.lists(_COORDINATE, min_size=2, max_size=2), max_size=5), max_size=2),
    st.builds(
        lambda size, counts: dict(size=size, counts=counts), st.sampled_from([[16, 24], [24, 16], [16], None]), _COUNTS
    ),
    st.builds(lambda counts: [dict(counts=counts)], _COUNTS),
    _SCALARS,
    st.builds(json.dumps, st.lists(st.lists(st.integers(0, 20), min_size=6, max_size=6), max_size=2)),
)
_NAMES = st.sampled_from(
    ["0.png", "1.png", "train\\1.png", "http://h/2.png?a", "/x/0.png", "../train/0.png", "1.jpg", "gone.png", "a/" * 40]
)
_FIELDS = {
    "images": dict(id=_SCALARS, file_name=st.one_of(_NAMES, _SCALARS), width=_SCALARS, height=_SCALARS),
    "annotations": dict(
        id=_SCALARS,
        image_id=_SCALARS,
        category_id=_SCALARS,
        bbox=st.one_of(st.lists(_COORDINATE, min_size=3, max_size=5), _SCALARS),
        area=_SCALARS,
        iscrowd=_SCALARS,
        segmentation=_SEGMENTATIONS,
    ),
    "categories": dict(id=_SCALARS, name=_SCALARS),
}
_GONE = object()


@st.composite
def mutations(draw) -> list[tuple]:
    """Changes of an annotation file: split, list, entry, field and new value; or a whole entry or list."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        part = draw(st.sampled_from(["annotations"] * 4 + ["images"] * 2 + ["categories"]))
        field = draw(st.sampled_from([*_FIELDS[part], *_FIELDS[part], None]))
        value = draw(_SCALARS) if field is None else draw(st.one_of(_FIELDS[part][field], st.just(_GONE)))
        found.append((draw(st.sampled_from(["train", "val"])), part, draw(st.integers(0, 3)), field, value))
    if draw(st.integers(0, 20)) == 0:
        found.append(("train", draw(st.sampled_from([*_FIELDS])), None, None, draw(_SCALARS)))
    return found


def annotated(root: Path) -> Path:
    """COCO's layout: in both splits three images with two objects each."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / split).mkdir()
        for i in range(IMAGES):
            pixels = np.random.default_rng(i).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(root / split / f"{i}.png")
    return root


def _content() -> dict:
    images = [dict(id=i + 1, file_name=f"{i}.png", width=WIDTH, height=HEIGHT) for i in range(IMAGES)]
    box = dict(bbox=[2, 3, 8, 6], area=48, iscrowd=0, segmentation=[[2, 3, 10, 3, 10, 9, 2, 9]])
    objects = [dict(id=i, image_id=1 + i // 2, category_id=1 + i % 2, **box) for i in range(2 * IMAGES)]
    return dict(images=images, annotations=objects, categories=[dict(id=1, name="a"), dict(id=2, name="b")])


def annotations_case(root: Path, case: list[tuple], include_masks: bool, lenient: bool) -> str:
    """Prepares a data set with these changes; what is read is trained on, and everything is accounted for."""
    contents = {split: copy.deepcopy(_content()) for split in ("train", "val")}
    for split, part, entry, field, value in case:
        rows = contents[split][part]
        if entry is None:
            contents[split][part] = value
        elif isinstance(rows, list) and entry < len(rows):
            if field is None:
                rows[entry] = value
            elif isinstance(rows[entry], dict):
                rows[entry].pop(field, None) if value is _GONE else rows[entry].update({field: copy.deepcopy(value)})
    for split, content in contents.items():
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    output = root.with_name("records")
    shutil.rmtree(output, ignore_errors=True)
    leniency = coco.Leniency(missing=lenient, invalid=lenient)
    try:
        prepared = coco.prepare(output, root, include_masks=include_masks, leniency=leniency, semantic=include_masks)
    except UserError as error:
        _check_line(error)
        assert not output.exists(), "something was left behind"
        return "refused"
    decoder = tf_example_decoder.TfExampleDecoder(include_mask=include_masks)
    for split, name in (("train", "train"), ("validation", "val")):
        count = prepared.counts[split]
        given = contents[name]
        assert len(given["images"]) == count.images + sum(count.images_left_out.values())
        assert len(given["annotations"]) == count.objects + sum(count.objects_left_out.values())
        rows = [decoder.decode(record) for record in tf.data.TFRecordDataset(f"{output}/{split}.tfrecord")]
        assert (len(rows), sum(len(row["groundtruth_boxes"]) for row in rows)) == (count.images, count.objects)
        for row in rows:
            boxes = row["groundtruth_boxes"].numpy()
            assert row["image"].shape == (HEIGHT, WIDTH, 3)
            assert ((boxes >= 0) & (boxes <= 1)).all()
            assert (boxes[:, 2:] >= boxes[:, :2]).all()
            assert np.isfinite(row["groundtruth_area"]).all()
            assert int(row["source_id"].numpy()) > 0
            assert ((row["groundtruth_classes"].numpy() > 0) & (row["groundtruth_classes"].numpy() < 3)).all()
            if include_masks and len(boxes):
                sizes = row["groundtruth_instance_masks"].numpy().astype(bool).sum((1, 2))
                assert (sizes > 0).all()
    return "read"


def _check_line(error: Exception, words: str = "") -> None:
    message = str(error)
    assert message.strip(), "an empty message"
    assert words in message
    assert "Traceback" not in message
    assert len(message) < 3000


# ------------------------------------------------------------------------------------------------------ images


def _sound_files() -> dict[str, bytes]:
    """One file of each of many kinds, small and full of detail."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    kinds = dict(
        baseline=("JPEG", noise, {}),
        progressive=("JPEG", noise, dict(progressive=True)),
        restarts=("JPEG", noise, dict(restart_marker_blocks=1)),
        turned=("JPEG", noise, dict(exif=turned)),
        grey=("JPEG", noise.convert("L"), {}),
        ink=("JPEG", noise.convert("CMYK"), {}),
        png=("PNG", noise, {}),
        palette=("PNG", noise.convert("P"), dict(transparency=3)),
        sixteen=("PNG", Image.fromarray(np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 170), {}),
        alpha=("PNG", noise.convert("RGBA"), {}),
        gif=("GIF", noise.convert("P"), dict(save_all=True, append_images=[noise.convert("P")])),
        webp=("WEBP", noise, {}),
        lossless=("WEBP", noise.convert("RGBA"), dict(lossless=True)),
        tiff=("TIFF", noise, dict(compression="tiff_lzw")),
        real=("TIFF", Image.fromarray(np.random.default_rng(0).random((HEIGHT, WIDTH), np.float32)), {}),
        bmp=("BMP", noise, {}),
        ppm=("PPM", noise, {}),
        tga=("TGA", noise, dict(compression="tga_rle")),
        ico=("ICO", noise, dict(sizes=[(16, 16)])),
    )
    files = {}
    for name, (kind, image, options) in kinds.items():
        file = io.BytesIO()
        image.save(file, kind, **options)
        files[name] = file.getvalue()
    return files


_FILES = _sound_files()


@st.composite
def image_files(draw) -> bytes:
    """Bytes of an image file, cut, flipped, spliced with another, under another's beginning, with other numbers.

    A PNG may get further chunks, and right checksums in the end, so that what they guard is found to be wrong.
    """
    content = bytearray(_FILES[draw(st.sampled_from(sorted(_FILES)))])
    for _ in range(draw(st.integers(0, 4))):
        length = len(content)
        place = draw(st.one_of(st.integers(0, min(length, 64)), st.integers(0, length)))
        other = _FILES[draw(st.sampled_from(sorted(_FILES)))]
        change = draw(
            st.sampled_from(["cut", "flip", "flip", "numbers", "numbers", "splice", "begin", "insert", "gone", "chunk"])
        )
        if change == "cut":
            del content[place:]
        elif change == "flip" and place < length:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif change == "numbers":
            content[place : place + 4] = draw(
                st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\x30\0", b"\0\x30\0\0"])
            )
        elif change == "splice":
            content[place:] = other[draw(st.integers(0, len(other))) :]
        elif change == "begin":
            start = draw(st.integers(1, 40))
            content[:start] = other[:start]
        elif change == "chunk" and content.startswith(door.PNG):
            kind = draw(st.sampled_from([b"ABCD", b"PLTE", b"abCd", b"1234", b"IHDR", b"tRNS", b"IDAT", b"gAMA"]))
            inner = draw(st.binary(max_size=8))
            start = draw(st.sampled_from([8, 33, length - 12]))
            content[start:start] = len(inner).to_bytes(4, "big") + kind + inner + bytes(4)
        elif change == "insert":
            content[place:place] = draw(st.binary(max_size=8))
        else:
            del content[place : place + draw(st.integers(1, 16))]
    return bytes(_sealed(content) if draw(st.booleans()) else content)


def _sealed(content: bytearray) -> bytearray:
    """A PNG with right checksums; anything else as it is."""
    place = 8
    while content.startswith(door.PNG) and place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if end + 4 > len(content):
            break
        content[end : end + 4] = zlib.crc32(content[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return content


def _pillow_reads(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content), formats=door.formats()) as image:
            image.load()
    except Exception:
        return False
    return True


def images_case(root: Path, content: bytes, name: str) -> str:
    """Prepares a folder that holds this file among sound ones: counted or written, and what is written is decoded.

    What Pillow alone cannot load is counted.
    """
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("a", "b"):
        (root / "data" / folder).mkdir(parents=True)
        for i, kind in enumerate(("baseline", "progressive")):  # All JPEG: what it is read as then depends on the file.
            (root / "data" / folder / f"{i}.png").write_bytes(_FILES[kind])
    (root / "data/a" / name).write_bytes(content)
    dataset = classification.prepare(root / "records", root / "data")
    records = [
        tf.train.Example.FromString(record.numpy()).features.feature
        for path in (dataset.train_path, dataset.validation_path)
        for record in tf.data.TFRecordDataset(path)
    ]
    assert dataset.train_examples + dataset.validation_examples == len(records)
    assert len(records) + sum(dataset.all_skipped.reasons.values()) == 5
    assert len(records) == 4 or _pillow_reads(content)
    for feature in records:
        encoded = feature["image/encoded"].bytes_list.value[0]
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
        assert tf.io.decode_image(encoded, 3, expand_animations=False).shape == (height, width, 3)
        if dataset.jpeg_only:  # Then training reads its size and decodes a part.
            assert tf.io.extract_jpeg_shape(encoded).numpy()[:2].tolist() == [height, width]
            crop = tf.io.decode_and_crop_jpeg(encoded, [0, 0, height, width], channels=3)
            assert crop.shape == (height, width, 3)
    return "read" if len(records) == 5 else "counted"


# ------------------------------------------------------------------------------------------------------- paths

NAMES = st.one_of(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.text(" ,'\"[]*?#%=~-{}:\\!$&;|<>()\n\t\u00e9a1\U0001f431", min_size=1, max_size=12),
    st.sampled_from(
        ["~", "-x", "a" * 255, " a ", "a,b", "[1]", "$HERE", "a=b", "x: y", "con", "\U0001f431" * 60, "\udce9"]
    ),
).filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) <= 255)


def paths_case(root: Path, name: str, shards: int) -> str:
    """Records, YAML, a flag for the shell and checkpoints below a directory of this name; then it is moved."""
    directory = root / name
    try:
        PathName().convert(str(directory), None, None)
    except click.UsageError as error:
        _check_line(error, "UTF-8")
        return "refused"
    shutil.rmtree(root, ignore_errors=True)
    files = [f"train-{i:05d}-of-00002.tfrecord" for i in range(2)] if shards == 2 else ["train.tfrecord"]
    pattern = "train-*-of-00002.tfrecord" if shards == 2 else files[0]
    decoy = root / ("".join("Z" if c in "*?[],\\" else c for c in name) + "Z"[: 255 - len(os.fsencode(name))])
    decoy.mkdir(parents=True, exist_ok=True)
    with storage.whole_directory(directory) as partial:
        for file in files:
            (Path(partial) / file).write_text("")
            (decoy / file).write_text("")
        fields = dict(train_data=dict(input_path=f"{experiment_yaml.HERE}/{pattern}"), init_checkpoint="$HERE/x")
        (Path(partial) / "data.yaml").write_text(experiment_yaml.text(dict(task=fields), "c"))
    storage.write_text(directory / ("n" * 240 + ".json"), "{}")
    expected = [str(directory / file) for file in files]

    params = exp_factory.get_exp_config("asvit_digits")
    experiment_files.override(params, experiment_files.read(f"{directory}/data.yaml"), "data.yaml")
    task = params.task
    assert sorted(input_reader.match_files(task.train_data.input_path)) == expected
    assert task.init_checkpoint == str(directory / "x")
    # As a path that a user types, and as the flag that asvit prepare prints, with and without a shell.
    assert sorted(inputs.record_files("train", str(directory / pattern))) == expected
    printed = prepare_command.override_flag(
        {"train": dict(input_path=prepare_command.pasted(str(directory / pattern)))}
    )
    (word,) = shlex.split(printed)
    for flag in (word, printed):
        given = copy.deepcopy(params)
        given.task.train_data.input_path = ""
        experiment_files.override_by_text(given, flag.removeprefix("--params_override="))
        assert sorted(input_reader.match_files(given.task.train_data.input_path)) == expected
    # Written below the directory, read where it has been moved to.
    training.write_params(params, str(directory / "model"), str(directory))
    assert str(directory) not in (directory / "model/params.yaml").read_text()
    moved = root / "moved"
    directory.rename(moved)
    read = experiment_files.read(str(moved / "model/params.yaml"))["task"]
    assert sorted(input_reader.match_files(read["train_data"]["input_path"])) == [str(moved / file) for file in files]
    moved.rename(directory)
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(v=tf.Variable(1.0)), str(directory / "model"), 2)
    saved = manager.save()
    assert checkpoints.newest(directory / "model") == saved
    assert len(checkpoints.files_of(saved)) == 2
    return "read"


# -------------------------------------------------------------------------------------------------------- YAML

_VALUES = st.one_of(
    st.sampled_from([0, -1, 1, 3, 10**20, 0.5, -0.5, 1e400, float("nan"), True, None, "", "x", "1e3", "~", [], {}]),
    st.lists(st.sampled_from([0, 1, 3, 32, "x", None, 0.5, []]), max_size=4),
    st.dictionaries(
        st.sampled_from(["type", "a", "preset", "cosine", 1]), st.sampled_from([0, "x", None, {}]), max_size=2
    ),
    st.text(max_size=8),
)
TOPOLOGIES = st.one_of(
    st.text("0123456789,| -.xA\uff18", max_size=30),
    st.builds(
        lambda numbers, gap: gap.join(",".join(map(str, part)) for part in numbers),
        st.lists(st.lists(st.integers(-1, 70), min_size=1, max_size=4), min_size=3, max_size=6),
        st.sampled_from(["|", " | ", "||"]),
    ),
)


def _leaves(value, path=()):
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    yield path


@st.composite
def experiments(draw) -> str:
    """YAML of one to three fields of an experiment with other values; or a text that is hardly YAML."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.text(":{}[]-#&*!|>%@`'\" \n\tab1", max_size=40))
    fields = sorted(set(_leaves(_registered())) - {()}, key=str)
    content: dict = {}
    for path in draw(st.lists(st.sampled_from(fields), min_size=1, max_size=3)):
        inner = content
        for key in path[:-1]:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        is_topology = path[-1] == "topology"
        inner[path[-1]] = draw(TOPOLOGIES if is_topology else _VALUES)
    return yaml.safe_dump(content, allow_unicode=draw(st.booleans()))


RECIPE = str(Path(__file__).parents[1] / "official_configs/digits_asvit_i32_cpu.yaml")
_CACHED: list = []


def _registered() -> dict:
    if not _CACHED:
        params = training.configure(train_utils.ParseConfigOptions("asvit_digits", []))
        _CACHED.append(params.as_dict())
    return _CACHED[0]


def yaml_case(root: Path, text: str) -> str:
    """Configures an experiment by this YAML and checks it, as far as asvit train does before it opens data."""
    path = root / "experiment.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        params = training.configure(train_utils.ParseConfigOptions("asvit_digits", [RECIPE, str(path)]))
        checks.check(params)
        training.plan_of(params)
    except UserError as error:
        _check_line(error)
        return "refused"
    assert yaml.safe_load(experiment_yaml.text(params.as_dict(), "c"))
    return "read"


def topology_case(text: str) -> str:
    """Parses a topology; what is one comes back from its text."""
    try:
        topology = Topology.parse(text)
    except UserError as error:
        _check_line(error)
        return "refused"
    assert Topology.parse(str(topology)) == topology
    return "read"
