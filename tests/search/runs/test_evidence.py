"""Why there is no TFLite model: a network that the converter does not take, not a disk that is full for a while."""

import errno
import json

import pytest
import tensorflow as tf

from asvit_tf.dataloaders.classification import Dataset
from asvit_tf.errors import StoppedError
from asvit_tf.serving import held_out, latency, tflite
from search.runs import evidence

MEASURED = dict(cores=1, system="here", saved_model={}, tflite=None)


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """`evidence.serve`, whose converter ends with an error, or writes a file."""
    (tmp_path / "saved_model").mkdir()
    monkeypatch.setattr(held_out, "fingerprint", lambda checkpoint: "0" * 16)
    monkeypatch.setattr(held_out, "first_images", lambda *arguments: ([], None))
    monkeypatch.setattr(latency, "measure", lambda *arguments: dict(MEASURED))

    def serve(error=None):
        def write(params, checkpoint, path):
            if error is not None:
                raise error
            path.write_bytes(b"a model")

        monkeypatch.setattr(tflite, "write", write)
        dataset = Dataset(str(tmp_path), ("a", "b"), 8, 4)
        return evidence.serve(tmp_path, None, dataset, lambda line: None, "ckpt-1")

    return serve


FULL = [
    (OSError(errno.ENOSPC, "No space left on device"), OSError),
    (tf.errors.ResourceExhaustedError(None, None, "/tmp/x; No space left on device"), StoppedError),
    (MemoryError(), MemoryError),
]


@pytest.mark.parametrize(("error", "ends"), FULL)
def test_a_full_disk_is_no_fault_of_the_network(serve, tmp_path, error, ends):
    with pytest.raises(ends):
        serve(error)
    assert not list((tmp_path / "serving").iterdir())
    assert serve()["conversion_problem"] is None
    assert (tmp_path / "serving/model.tflite").exists()


def test_what_the_converter_does_not_take_is_kept(serve, tmp_path):
    assert serve(ValueError("no such op\nat line 3"))["conversion_problem"] == "no such op"
    assert json.loads((tmp_path / "serving/result.json").read_text())["conversion_problem"] == "no such op"
    assert serve()["conversion_problem"] == "no such op"
