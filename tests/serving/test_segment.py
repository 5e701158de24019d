"""Classes at the image's own size: a stub SavedModel whose logits are known; in JSON, drawn, and as numbers."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from asvit_tf import UserError, cli
from asvit_tf.serving import drawing
from asvit_tf.serving import segment as segmenting

HEIGHT, WIDTH = 100, 200
NETWORK = (32, 64)  # Of which the image is the upper 30 rows and 60 columns.
SCALE = 0.3
NAMES = ["car", "road", "never", "sky"]


class Stub(tf.Module):
    """Answers as an exported segmentation network does: sky above row 15 of 30, road below; a car of 6 x 12."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def serve(self, inputs):
        classes = np.full(NETWORK, 3)
        classes[15:30] = 1
        classes[18:24, 6:18] = 0
        classes[30:] = classes[:, 60:] = 2  # The padding.
        size = [[HEIGHT, WIDTH], NETWORK, (SCALE, SCALE), [0, 0]]
        return dict(
            logits=tf.constant(np.eye(4)[classes][None], tf.float32),
            image_info=tf.constant([size], tf.float32),
            class_names=tf.constant(NAMES),  # As earlier versions exported them; now it is [B, classes].
        )


def expected_classes():
    """Three and a third pixels for each of the network's, whose borders are multiples of three of them."""
    classes = np.full((HEIGHT, WIDTH), 3)
    classes[50:] = 1
    classes[60:80, 20:60] = 0
    return classes


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    stub, directory = Stub(), tmp_path_factory.mktemp("segment") / "model"
    tf.saved_model.save(stub, str(directory), signatures=stub.serve)
    return str(directory)


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT), (40, 80, 120)).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def corners_aside(found, expected):
    """Whether they are equal but for the corners of the car, which bilinear interpolation cuts."""
    return (found != expected).sum() <= 8


def test_classes_are_at_the_own_size_with_their_shares(tmp_path, saved_model, picture, capsys):
    output, mask = tmp_path / "drawn.png", tmp_path / "mask.png"
    arguments = ["segment", saved_model, picture, "--output", str(output), "--mask", str(mask)]
    assert cli.main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["image"], result["output"], result["mask"]) == (picture, str(output), str(mask))
    classes = np.asarray(Image.open(mask))
    assert Image.open(mask).mode == "P"
    assert corners_aside(classes, expected_classes())
    rows = {row["label"]: row for row in result["classes"]}
    assert list(rows) == ["sky", "road", "car"]  # The largest first; what never occurs is not there.
    assert [rows[name]["number"] for name in rows] == [3, 1, 0]
    for row in rows.values():
        assert row["share"] == pytest.approx((classes == row["number"]).mean())
    assert rows["sky"]["share"] == 0.5
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["sky", "50.00%"]
    assert lines[-1] == f"3 classes, drawn in {output}"


def test_the_drawing_has_the_classes_over_the_image_and_a_legend_beside(tmp_path, saved_model, picture):
    found = segmenting.segment(saved_model, picture)
    segmenting.draw(picture, found, str(tmp_path / "drawn.png"))
    drawn = np.asarray(Image.open(tmp_path / "drawn.png")).astype(int)
    assert drawn.shape[0] >= HEIGHT
    assert drawn.shape[1] > WIDTH
    for label, (row, column) in {3: (10, 150), 1: (90, 150), 0: (70, 40)}.items():
        expected = 0.55 * np.array([40, 80, 120]) + 0.45 * np.array(drawing.colour(label))
        np.testing.assert_allclose(drawn[row, column], expected, atol=1.01)
    legend = {tuple(pixel) for pixel in drawn[:, WIDTH:].reshape(-1, 3).tolist()}
    assert {drawing.colour(label) for label in (0, 1, 3)} <= legend
    assert drawing.colour(2) not in legend
    first = [np.argwhere((drawn[:, WIDTH:] == drawing.colour(label)).all(-1))[0, 0] for label in (3, 1, 0)]
    assert first == sorted(first)
    assert (drawn[:, WIDTH:] < 64).all(-1).any()  # Text.


def test_the_palette_of_the_mask_is_that_of_the_drawing(tmp_path, saved_model, picture):
    found = segmenting.segment(saved_model, picture)
    segmenting.write_mask(found, str(tmp_path / "mask.png"))
    with Image.open(tmp_path / "mask.png") as image:
        assert image.convert("RGB").getpixel((40, 70)) == drawing.colour(0)
    assert not list(tmp_path.glob(".*"))


def test_neighbouring_classes_have_colours_far_apart():
    colours = np.array([drawing.colour(label) for label in range(8)])
    assert (np.abs(colours[1:] - colours[:-1]).max(-1) > 100).all()
    many = np.array([drawing.colour(label) for label in range(20)])
    distances = np.linalg.norm(many[:, None] - many, axis=-1)
    assert distances[~np.eye(20, dtype=bool)].min() > 50  # Of 441 from black to white.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "drawn.gif"], "allowed are files that end in .png, .jpg, .jpeg"),
        (["--output", "drawn.png", "--mask", "mask.jpg"], "the output is mask.jpg; allowed are files that end in .png"),
        (["--output", "gone/drawn.png"], "there is no directory"),
    ],
)
def test_outputs_that_cannot_be_are_refused(tmp_path, saved_model, picture, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["segment", saved_model, picture, *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_a_saved_model_of_something_else_is_refused(tmp_path, picture):
    class Other(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def serve(self, inputs):
            return dict(logits=tf.zeros((1, 2)), class_names=tf.constant(["a", "b"]))

    other = Other()
    tf.saved_model.save(other, str(tmp_path / "model"), signatures=other.serve)
    with pytest.raises(
        UserError, match="does not find the class of every pixel of encoded images; expected what asvit"
    ):
        segmenting.segment(str(tmp_path / "model"), picture)
