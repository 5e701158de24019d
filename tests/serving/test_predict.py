"""What `asvit predict` does not take for a SavedModel of a classifier."""

import tensorflow as tf

from asvit_tf import cli


def test_predict_refuses_other_saved_models(tmp_path, capsys):
    image = tmp_path / "0.png"
    image.write_bytes(tf.io.encode_png(tf.zeros((8, 8, 3), tf.uint8)).numpy())
    module = tf.Module()
    module.double = tf.function(lambda inputs: {"probs": 2 * inputs}, [tf.TensorSpec((None,), tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "other"), signatures=module.double)
    (tmp_path / "corrupt").mkdir()
    (tmp_path / "corrupt" / "saved_model.pb").write_bytes(b"nothing")
    for name in ("other", "corrupt"):
        assert cli.main(["predict", str(tmp_path / name), str(image)]) == 2
        assert "does not classify encoded images" in capsys.readouterr().err
