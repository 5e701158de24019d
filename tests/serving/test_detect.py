"""Boxes and masks in pixels of the image file: a stub SavedModel whose boxes are known, in JSON and on the picture."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from asvit_tf import UserError, cli
from asvit_tf.serving import detect as detecting

HEIGHT, WIDTH = 100, 200
SCALE = (0.5, 0.8)  # Of rows and columns: the network sees 50 x 160.
# Top, left, bottom, right as the network sees them; the image's own pixels follow by dividing by hand.
BOXES = [[15, 20, 35, 60], [30, 120, 65, 200], [-10, -20, 10, 40], [0, 0, 50, 160], [5, 100, 10, 104]]
SCORES, CLASSES = [0.75, 0.875, 0.625, 0.25, 0.9375], [1, 2, 7, 1, 1]
FOUND = 4  # The last is padding.
EXPECTED = [
    dict(label="square", category=2, score=0.875, box=[150, 60, 200, 100]),  # Cut: it reaches to 250 and 130.
    dict(label="circle", category=1, score=0.75, box=[25, 30, 75, 70]),
    dict(label="7", category=7, score=0.625, box=[0, 0, 50, 20]),  # Cut: it begins at -25 and -20. Without a name.
]


class Stub(tf.Module):
    """Answers as an exported detector does, whatever the image shows; masks are given, [N, m, m], or None."""

    def __init__(self, masks):
        super().__init__()
        self._masks = masks

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def serve(self, inputs):
        size = [[HEIGHT, WIDTH], [HEIGHT * SCALE[0], WIDTH * SCALE[1]], SCALE, [0, 0]]
        answer = dict(
            detection_boxes=tf.constant([BOXES], tf.float32),
            detection_scores=tf.constant([SCORES], tf.float32),
            detection_classes=tf.constant([CLASSES]),
            num_detections=tf.constant([FOUND]),
            image_info=tf.constant([size], tf.float32),
            class_names=tf.constant([["", "circle", "square"]]),
        )
        if self._masks is not None:
            answer["detection_masks"] = tf.constant(self._masks[None], tf.float32)
        return answer


def saved(directory, masks=None):
    stub = Stub(masks)
    tf.saved_model.save(stub, str(directory), signatures=stub.serve)
    return str(directory)


@pytest.fixture
def black(tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT), "black").save(tmp_path / "black.png")
    return str(tmp_path / "black.png")


def lit(path):
    return np.asarray(Image.open(path)).max(-1) > 0


def outlined(*boxes):
    """[HEIGHT, WIDTH] bool: the outlines of boxes (left, top, right, bottom), one pixel wide."""
    whole = np.zeros((HEIGHT, WIDTH), bool)
    for left, top, right, bottom in boxes:
        whole[[top, bottom - 1], left:right] = True
        whole[top:bottom, [left, right - 1]] = True
    return whole


def beside_labels(*boxes):
    """[HEIGHT, WIDTH] bool: where no label is; each is at most 16 x 76 pixels, above its box or below the border."""
    whole = np.ones((HEIGHT, WIDTH), bool)
    for left, top, _, _ in boxes:
        first = max(top - 16, 0)
        whole[first : max(top, 16), max(left - 1, 0) : left + 75] = False
    return whole


PLACES = [item["box"] for item in EXPECTED]


def test_boxes_are_in_pixels_of_the_file_cut_at_its_border(tmp_path, black, capsys):
    output = tmp_path / "drawn.png"
    arguments = ["detect", saved(tmp_path / "model"), black, "--output", str(output)]
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["detections"] == [{**item, "box": pytest.approx(item["box"], abs=1e-3)} for item in EXPECTED]
    drawn, here = lit(output), beside_labels(*PLACES)
    np.testing.assert_array_equal(drawn[here], outlined(*PLACES)[here])
    assert drawn[16:29, 25:75].any()  # A label above its box.
    assert drawn[1:12, 1:10].any()  # One inside, where there is no room above.
    assert cli.main([*arguments, "--min-score", "0.8"]) == 0
    line, summary = capsys.readouterr().out.splitlines()
    assert line.split() == ["square", "0.875", "150", "60", "200", "100"]
    assert summary == f"1 objects, drawn in {output}"


def test_masks_fill_their_part_of_the_box_and_go_on_beyond_the_border(tmp_path, black):
    masks = np.zeros((5, 28, 28))
    masks[0, :, 14:] = 0.9  # The right half of a box 50 wide and 40 high; of the left one it is less sure than half.
    masks[0, :, :14] = 0.4
    masks[1, :14] = 0.9  # The upper half of a box 100 wide and 70 high, of which the image has a quarter.
    masks[2, :, :21] = 0.9  # The left three quarters of a box that begins 25 before the border: 31 columns of it.
    detecting.draw(black, detecting.detect(saved(tmp_path / "model", masks), black), str(tmp_path / "drawn.png"))
    expected, here = outlined(*PLACES), beside_labels(*PLACES)
    expected[30:70, 50:75] = True
    expected[60:95, 150:200] = True
    expected[0:20, 0:31] = True
    for rows, columns in (
        (slice(31, 69), slice(47, 51)),
        (slice(94, 96), slice(151, 199)),
        (slice(1, 19), slice(30, 33)),
    ):
        here[rows, columns] = False  # Where a mask ends, interpolation decides.
    np.testing.assert_array_equal(lit(tmp_path / "drawn.png")[here], expected[here])


def test_what_is_surer_lies_on_top(tmp_path, black):
    """Two boxes, one over the other: every pixel of the surer one's outline has its colour."""
    both = [
        detecting.Detection("below", 2, 0.6, (20, 40, 120, 90)),
        detecting.Detection("above", 1, 0.9, (60, 30, 180, 80)),
    ]
    detecting.draw(black, sorted(both, key=lambda item: -item.score), str(tmp_path / "drawn.png"))
    drawn = np.asarray(Image.open(tmp_path / "drawn.png"))
    outline = outlined((60, 30, 180, 80))
    assert len(np.unique(drawn[outline], axis=0)) == 1
    assert (drawn[89, 20:120] != drawn[79, 100]).any(-1).all()


@pytest.mark.parametrize(("name", "kind"), [("drawn.JPG", "JPEG"), ("drawn.png", "PNG")])
def test_the_suffix_decides_the_format(tmp_path, black, name, kind):
    detecting.draw(black, [], str(tmp_path / name))
    with Image.open(tmp_path / name) as image:
        assert (image.format, image.size) == (kind, (WIDTH, HEIGHT))
        assert not np.asarray(image).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["black.png", name])


def test_a_saved_model_of_something_else_is_refused(tmp_path, black):
    class Other(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def serve(self, inputs):
            return dict(probs=tf.zeros((1, 2)))

    other = Other()
    tf.saved_model.save(other, str(tmp_path / "model"), signatures=other.serve)
    with pytest.raises(UserError, match="does not detect objects in encoded images; expected what asvit export"):
        detecting.detect(str(tmp_path / "model"), black)


def test_a_photograph_on_its_side_is_drawn_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH), "black").rotate(90, expand=True).save(tmp_path / "phone.jpg", exif=exif)
    with Image.open(tmp_path / "phone.jpg") as stored:
        assert stored.size == (WIDTH, HEIGHT)
    detecting.draw(str(tmp_path / "phone.jpg"), [], str(tmp_path / "drawn.png"))
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.size == (HEIGHT, WIDTH)
