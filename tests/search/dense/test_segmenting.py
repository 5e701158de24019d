"""A segmenter from real photographs by one command: everything it leaves, going on where it was, bad input."""

import json
import shutil

import numpy as np
import pytest
import yaml
from helpers import ROOT
from PIL import Image

from asvit_tf.cli.app import main

SCENES = ROOT / "tests" / "data" / "street_scenes"
TOPOLOGY = "4,2,2,1|2,2,2,1|2,1,2,1|2,1,2,1|8,16"
SMALL = ["--epochs", "1", "--batch-size", "2", "--image-size", "64x96", "--topology", TOPOLOGY, "--hardware", "cpu"]
FOLDERS = [str(SCENES / name) for name in ("images", "masks")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Directory and result of a run of two real steps."""
    output = tmp_path_factory.mktemp("segment") / "run"
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asvit_tf.cli.dense.print_json", printed.append)
        assert main(["segment-run", *FOLDERS, "--ignored", "11", "--output", str(output), "--json", *SMALL]) == 0
    return output, printed[0]


def test_what_a_run_leaves(finished):
    output, result = finished
    assert result["images"] == {"train": 4, "validation": 2, "test": 2}
    assert result["input_size"] == [64, 96]
    assert set(result["by_class"]) <= {str(number) for number in range(11)}
    for name in ("mean_iou", "test_mean_iou", "pixel_accuracy", "test_pixel_accuracy"):
        assert 0 <= result[name] <= 1
    present = [value for value in result["by_class"].values() if value is not None]
    assert np.mean(present) == pytest.approx(result["test_mean_iou"])  # The classes are those of the test split.
    page = (output / "report.html").read_text()
    for words in ("Truth beside found", "Confusions", TOPOLOGY, "What was not done", "IoU, test"):
        assert words in page
    with Image.open(output / "pictures" / "1.png") as picture:
        assert picture.size == (3 * 160 + 8, 120)


def test_a_class_weighs_by_its_share_of_the_pixels_to_train_on(finished):
    """Counted in the label pictures; the usual loss would weigh all alike."""
    output, _ = finished
    pictures = [np.asarray(Image.open(path)).ravel() for path in (SCENES / "masks" / "train").iterdir()]
    pixels = np.bincount(np.concatenate(pictures), minlength=12)[:11]
    recipe = yaml.safe_load((output / "recipe.yaml").read_text())
    there = pixels > 0
    weights = np.array(recipe["task"]["losses"]["class_weights"])
    inverse = 1 / np.sqrt(pixels[there] / pixels[there][0])
    expected = inverse * pixels.sum() / (inverse @ pixels[there])  # On average over the pixels 1.
    np.testing.assert_allclose(weights[there], np.minimum(expected, 20), rtol=0.01)


def test_the_numbers_are_those_of_the_answers(finished, tmp_path):
    """IoU of the test split by hand, from what `asvit segment` writes for its pictures."""
    output, result = finished
    names = sorted(result["by_class"], key=int)
    counts = np.zeros((12, 12), np.int64)
    for path in sorted((SCENES / "images" / "test").iterdir()):
        mask = tmp_path / f"{path.stem}.png"
        drawn = tmp_path / f"{path.stem}_drawn.png"
        assert (
            main(["segment", str(output / "saved_model"), str(path), "--output", str(drawn), "--mask", str(mask)]) == 0
        )
        truth = np.asarray(Image.open(SCENES / "masks" / "test" / f"{path.stem}.png"))
        answered = np.array([int(name) for name in names])[np.asarray(Image.open(mask))]
        np.add.at(counts, (truth[truth < 11], answered[truth < 11]), 1)
    hits, union = np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
    for name in names:
        expected = hits[int(name)] / union[int(name)] if union[int(name)] else None
        assert result["by_class"][name] == (None if expected is None else pytest.approx(expected))


def test_steps_that_are_done_are_not_repeated(finished, capsys, monkeypatch):
    output, result = finished
    from asvit_tf.dataloaders.labels import prepare
    from asvit_tf.serving import segmentation_held_out
    from asvit_tf.training import run as train
    from search.dense.experiments import SegmentationChoices

    done = ((prepare, "prepare"), (SegmentationChoices, "of"), (train, "run"), (segmentation_held_out, "iou"))
    for module, name in done:
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("done before"))
    (output / "result.json").unlink()
    recipe = (output / "recipe.yaml").read_text()
    assert "topology" in recipe
    assert main(["segment-run", *FOLDERS, "--ignored", "11", "--output", str(output), "--json", *SMALL]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {**again, "seconds": None} == {**json.loads(json.dumps(result)), "seconds": None}
    assert (output / "recipe.yaml").read_text() == recipe


def test_only_pictures_that_are_shown_are_answered_again(tmp_path, monkeypatch):
    """Twelve of forty, evenly taken, and the four worst; one of these has no pixel that counts."""
    from asvit_tf.hardware.choice import Chosen
    from asvit_tf.serving import segment, segmentation_held_out
    from search.dense import segmenting
    from search.dense.settings import SegmentationSettings

    answered, classes = [], np.zeros((4, 6), np.int32)
    encoded = [b"%d" % place for place in range(40)]
    with Image.new("RGB", (6, 4)) as picture:
        monkeypatch.setattr(segmenting.Image, "open", lambda _: picture.copy())
    monkeypatch.setattr(segment, "load", lambda _: None)
    monkeypatch.setattr(segmentation_held_out, "rows", lambda _: ((each, np.uint8(classes)) for each in encoded))

    def answer(serve, picture):
        answered.append(int(picture))
        return segment.Segmented(classes, ("a", "b"))

    monkeypatch.setattr(segment, "answer", answer)
    wrong = np.linspace(0.1, 0.2, 40)
    wrong[[3, 15, 30, 31]] = 0.9, 0.8, 0.7, 0.6
    wrong[20] = np.nan
    run = segmenting._Run(tmp_path, SegmentationSettings(images="images", masks="masks"), print, Chosen())
    prepared = segmenting.Prepared(str(tmp_path), ("a", "b"), (), (), {}, 0, (), segmenting.Skipped())
    shown = run._pictures(prepared, "validation", tuple(wrong))
    even = np.linspace(0, 39, 12).astype(int)
    np.testing.assert_array_equal([each.wrong for each in shown], wrong[[*even, 3, 15, 30, 31]])
    assert answered == sorted({*even.tolist(), 3, 15, 30, 31})


def test_bad_folders_are_one_line(tmp_path, capsys):
    masks = tmp_path / "masks"
    shutil.copytree(SCENES / "masks", masks)
    first = min((masks / "train").iterdir())
    Image.open(first).resize((10, 10)).save(first)
    assert main(["segment-run", FOLDERS[0], str(masks), "--output", str(tmp_path / "out"), *SMALL]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("asvit:")]
    assert first.stem in line
    assert not (tmp_path / "out" / "data").exists()
