"""A detector from real photographs by one command: everything it leaves, going on where it was, bad input."""

import io
import json
import shutil

import numpy as np
import pytest
import yaml
from helpers import ROOT
from PIL import Image

from asvit_tf import UserError
from asvit_tf.cli.app import main
from asvit_tf.hardware.choice import Chosen, Gpu
from search.dense.settings import DetectionSettings

CELLS = ROOT / "tests" / "data" / "blood_cells"
TOPOLOGY = "4,2,2,1|2,2,2,1|2,1,2,1|2,1,2,1|8,16"
SMALL = ["--epochs", "1", "--batch-size", "2", "--image-size", "64x96", "--topology", TOPOLOGY, "--hardware", "cpu"]


def command(output, *more):
    return ["detect-run", str(CELLS), "--output", str(output), "--json", *SMALL, *more]


@pytest.fixture(scope="module", params=["retinanet", "cascade"])
def finished(request, tmp_path_factory):
    """Model, directory and result of a run of two real steps."""
    output = tmp_path_factory.mktemp("detect") / f"{request.param} [1]"  # TensorFlow reads patterns.
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asvit_tf.cli.dense.print_json", printed.append)
        assert main(command(output, "--model", request.param)) == 0
    return request.param, output, printed[0]


def test_what_a_run_leaves(finished):
    model, output, result = finished
    assert result["model"] == model
    assert result["images"] == {"train": 4, "validation": 2}
    assert result["input_size"] == [64, 96]
    assert 0 <= result["AP"] <= result["AP50"] <= 1
    assert set(result["by_class"]) == {"Platelets", "RBC", "WBC"}
    content = json.loads((CELLS / "annotations" / "instances_val.json").read_text())
    assert sum(found["objects"] for found in result["by_class"].values()) == len(content["annotations"])
    assert "mask_AP" not in result  # The data have none.
    assert result["left_out"] == ["train: 4 photographs are stored reduced, at most 24,576 pixels"]  # Of 200 x 160.
    assert result["left_out"] == json.loads((output / "data.json").read_text())["left_out"]
    assert not (output / "data.begun").exists()
    assert sorted(path.name for path in (output / "pictures").iterdir()) == ["1.png", "2.png"]
    with Image.open(output / "pictures" / "1.png") as picture:
        assert picture.size == (2 * 200 + 4, 160)  # Truth beside found, at the picture's own size.
    page = (output / "report.html").read_text()
    for words in ("Truth beside found", "Confusions", "k-means", "Platelets", TOPOLOGY, "What was not done"):
        assert words in page
    assert (output / "saved_model" / "saved_model.pb").exists()


def test_the_recipe_is_an_ordinary_one(finished):
    from asvit_tf.tasks import experiment_files
    from search.dense import experiments

    model, output, _ = finished
    content = yaml.safe_load((output / "recipe.yaml").read_text())
    params = experiments.registered(model)
    for source in (output / "recipe.yaml", output / "data" / "data.yaml"):
        experiment_files.override(params, experiment_files.read(str(source)), str(source))
    assert content["trainer"]["train_steps"] == params.trainer.train_steps == 2
    assert list(params.task.model.input_size) == [64, 96, 3]
    assert params.task.model.num_classes == 4
    assert params.task.stored_pixels == 4 * 64 * 96
    assert "stored_pixels" not in content["task"]  # Other data may not be reduced.
    exported = yaml.safe_load((output / "saved_model" / "params.yaml").read_text())
    assert exported["task"]["stored_pixels"] == 4 * 64 * 96


def test_steps_that_are_done_are_not_repeated(finished, capsys, monkeypatch):
    _, output, result = finished
    from asvit_tf.dataloaders import boxes, coco
    from asvit_tf.serving import found
    from asvit_tf.training import run as train

    for module, name in ((coco, "prepare"), (boxes, "read"), (train, "run"), (found, "answer")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("done before"))
    recipe = (output / "recipe.yaml").read_text()
    assert "topology" in recipe
    (output / "result.json").unlink()
    (output / "report.html").unlink()
    assert main(command(output, "--model", result["model"])) == 0
    again = json.loads(capsys.readouterr().out)
    assert {**again, "seconds": None} == {**json.loads(json.dumps(result)), "seconds": None}
    assert (output / "report.html").exists()
    assert (output / "recipe.yaml").read_text() == recipe


def test_large_records_are_shuffled_a_few_at_a_time(tmp_path):
    from asvit_tf.dataloaders import coco
    from search.dense import experiments

    prepared = coco.Prepared(str(tmp_path), ("", "thing"), {})
    for size, examples, expected in ((2**20, 12, 12), (2**20, 4000, 1000), (2**31, 2000, 500), (2**33, 2000, 256)):
        with open(tmp_path / "train.tfrecord", "wb") as file:
            file.truncate(size)  # Sparse.
        assert experiments._shuffled(examples, prepared) == expected


def test_another_setting_is_another_directory(finished, capsys):
    _, output, result = finished
    assert main([*command(output, "--model", result["model"]), "--seed", "3"]) == 2
    assert "seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(model="yolo"), "allowed are retinanet, cascade"),
        (dict(epochs=0), "epochs is 0"),
        (dict(image_size=(32, 640)), "image_size is"),
        (dict(image_size=(64, 100)), "image_size is 64 x 100; allowed are multiples of 32"),
        (dict(topology="1,2"), "topology"),
        (dict(topology=TOPOLOGY, init_checkpoint="x"), "keeps its own"),
        (dict(seed=2**31), "below"),
    ],
)
def test_settings_that_cannot_be(given, said):
    with pytest.raises(UserError, match=said):
        DetectionSettings(data_path=".", **given)


def test_a_batch_for_which_the_memory_does_not_suffice_may_be_smaller_in_the_same_directory(
    tmp_path, capsys, monkeypatch
):
    """Until there is a checkpoint; the images are not read again, and what follows from the batch is chosen again."""
    import tensorflow as tf

    from asvit_tf.dataloaders import boxes, coco
    from asvit_tf.training import run as train

    output, tried = tmp_path / "out", []

    def without_memory(params, *_):
        tried.append(params)
        tf.zeros([10**6, 10**7])

    monkeypatch.setattr(train, "_run_once", without_memory)
    assert main(command(output)) == 1
    assert "memory does not suffice for batches of 2 images; give fewer by --batch-size" in capsys.readouterr().err
    monkeypatch.setattr(coco, "prepare", lambda *_, **__: pytest.fail("images are read again"))
    assert main(command(output, "--batch-size", "1")) == 1
    batches = [(params.task.train_data.global_batch_size, params.trainer.train_steps) for params in tried]
    assert batches == [(2, 2), (1, 4)]
    monkeypatch.setattr(boxes, "read", lambda *_, **__: pytest.fail("chosen before"))
    assert main(command(output, "--batch-size", "1")) == 1
    same = [json.dumps(params.as_dict(), sort_keys=True) for params in tried[1:]]  # Lists and tuples alike.
    assert same[0] == same[1]
    assert json.loads((output / "settings.json").read_text())["batch_size"] == 1
    capsys.readouterr()
    (output / "train" / "checkpoint").touch()
    assert main(command(output)) == 2
    assert "batch_size was 1, now 2" in capsys.readouterr().err


def test_images_are_read_again_for_another_size_of_the_input(tmp_path, monkeypatch):
    """They are stored as large as the input needs, and once for each size."""
    from asvit_tf.dataloaders import coco
    from asvit_tf.serving import found
    from search.dense import detecting

    read, prepare = [], coco.prepare
    monkeypatch.setattr(coco, "prepare", lambda *a, **k: read.append(k["stored_pixels"]) or prepare(*a, **k))

    def stored(side: int) -> int:
        settings = DetectionSettings(data_path=str(CELLS), image_size=(64, side), batch_size=2)
        prepared = detecting._Run(tmp_path, settings, print, Chosen()).data()
        pictures = found.pictures(f"{prepared.directory}/train.tfrecord")
        return max(np.prod(Image.open(io.BytesIO(encoded)).size) for _, encoded in pictures)

    first, again, larger = stored(64), stored(64), stored(96)
    assert read == [4 * 64 * 64, 4 * 64 * 96]
    assert first == again <= 4 * 64 * 64 < larger <= 4 * 64 * 96
    assert not (tmp_path / "data.begun").exists()


@pytest.mark.parametrize(("asked", "batch", "rate"), [(None, 16, 1.4e-3), (4, 4, 7.1e-4)])
def test_the_batch_of_few_images_suits_several_gpus(asked, batch, rate, tmp_path):
    from search.dense import detecting
    from search.dense.choices import Choices

    settings = DetectionSettings(data_path=str(CELLS), batch_size=asked)
    run = detecting._Run(tmp_path, settings, print, Chosen("gpu", (Gpu(),) * (8 if asked is None else 4)))
    found = run.for_devices(Choices((64, 96), None, 4, 1, 7.1e-4, TOPOLOGY, 20, 30.0))
    assert (found.batch_size, found.learning_rate) == (batch, pytest.approx(rate))


@pytest.mark.parametrize("stride", [2, 4])
def test_a_network_of_other_tokens_to_start_from_is_told(stride, tmp_path):
    from asvit_tf import Topology
    from search.dense import detecting, experiments
    from search.runs.designing import Kept

    run = detecting._Run(tmp_path, DetectionSettings(data_path=str(CELLS)), print, Chosen())
    params = experiments.registered("retinanet")
    assert run.of_the_start(params) == []
    run.kept = Kept(Topology.parse(TOPOLOGY), stride, "before", ("cat", "dog"))
    lines = run.of_the_start(params)
    assert len(lines) == (stride == 2)
    assert all("has tokens of 2 pixels (its base stride), here of 4" in line for line in lines)


def test_a_batch_smaller_than_the_devices_is_refused_before_images_are_read(tmp_path, monkeypatch):
    import types

    from asvit_tf.dataloaders import coco
    from asvit_tf.training import strategies
    from search.dense import detecting

    monkeypatch.setattr(coco, "prepare", lambda *_, **__: pytest.fail("images are read"))
    monkeypatch.setattr(strategies, "build", lambda runtime: types.SimpleNamespace(num_replicas_in_sync=8))
    settings = DetectionSettings(data_path=str(CELLS), batch_size=4)
    with pytest.raises(UserError, match="a batch of 4 images cannot be divided among 8 devices"):
        detecting.run(tmp_path, settings, print, Chosen("tpu", tpu="local"))


def test_a_field_that_no_experiment_has_is_refused_before_images_are_read(tmp_path, capsys, monkeypatch):
    from asvit_tf.dataloaders import coco

    monkeypatch.setattr(coco, "prepare", lambda *_, **__: pytest.fail("images are read"))
    output = tmp_path / "out"
    assert main([*command(output), "--params-override", "task.no_such_field=1"]) == 2
    assert "no_such_field" in capsys.readouterr().err
    assert not (output / "data").exists()


@pytest.mark.parametrize("is_started", [False, True])
def test_a_folder_of_the_users_is_never_removed(is_started, tmp_path, capsys):
    """Also where it came to be after a start that found no data."""
    cells, output = tmp_path / "cells", tmp_path / "out"
    arguments = ["detect-run", str(cells), "--output", str(output), *SMALL]
    if is_started:
        cells.mkdir()
        assert main(arguments) == 2
        assert "annotation" in capsys.readouterr().err
        cells.rmdir()
    shutil.copytree(CELLS, cells)
    precious = output / "data" / "photograph.jpg"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    assert main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("asvit:")]
    assert "data exists, but no data set was prepared there; move it or choose another directory" in line
    assert precious.read_text() == "precious"


def test_images_without_any_box_are_refused(tmp_path, capsys):
    folder = tmp_path / "cells"
    shutil.copytree(CELLS, folder)
    path = folder / "annotations" / "instances_train.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    assert main(["detect-run", str(folder), "--output", str(tmp_path / "out"), *SMALL]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("asvit:")]
    assert "no image of the training split has a box" in line
    assert not list((tmp_path / "out").glob("data*"))  # Or boxes drawn since would never be read.


def test_a_folder_without_annotations_is_refused(tmp_path, capsys):
    assert main(["detect-run", str(tmp_path), "--output", str(tmp_path / "out"), *SMALL]) == 2
    assert "annotation" in capsys.readouterr().err
