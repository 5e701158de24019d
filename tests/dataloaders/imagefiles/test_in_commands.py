"""Commands read images by the door: photographs on their side, files under false names, files that are none."""

import json

import numpy as np
import tensorflow as tf
from official.vision.dataloaders import tf_example_decoder
from PIL import Image

from asvit_tf import cli
from asvit_tf.dataloaders.imagefiles import skipped
from asvit_tf.serving import predict

RED, BLUE = (200, 30, 60), (30, 60, 200)


def red_above_blue(path, size, orientation=6, kind="JPEG"):
    """A photograph of this width and height once it is set upright: red above, blue below; stored on its side."""
    width, height = size
    upright = np.zeros((height, width, 3), np.uint8)
    upright[: height // 2], upright[height // 2 :] = RED, BLUE
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.rot90(upright) if orientation == 6 else upright
    Image.fromarray(np.ascontiguousarray(stored)).save(path, kind, exif=exif)


def is_red_above_blue(image):
    middle = image.shape[0] // 2
    above, below = image[: middle - 2].mean((0, 1)), image[middle + 2 :].mean((0, 1))
    return np.allclose(above, RED, atol=4) and np.allclose(below, BLUE, atol=4)


class Classifier(tf.Module):
    """Is surer of "red above" the more red there is in the upper half."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def serve(self, inputs):
        def judge(encoded):
            image = tf.cast(tf.io.decode_image(encoded, channels=3, expand_animations=False), tf.float32)
            height = tf.shape(image)[0]
            above = tf.reduce_mean(image[: height // 2, :, 0])
            return tf.stack([above, 255 - above]) / 255

        probs = tf.map_fn(judge, inputs, fn_output_signature=tf.TensorSpec([2], tf.float32))
        names = tf.constant(["red above", "blue above"])
        return dict(probs=probs, class_names=names, label=tf.gather(names, tf.argmax(probs, 1)))


def test_predict_sets_upright_and_names_what_it_cannot_read(tmp_path, capsys, monkeypatch):
    classifier = Classifier()
    tf.saved_model.save(classifier, str(tmp_path / "model"), signatures=classifier.serve)
    red_above_blue(tmp_path / "phone.jpg", (20, 60))
    red_above_blue(tmp_path / "scan.tif", (20, 60), 1, "TIFF")  # TensorFlow reads none.
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    images = [str(tmp_path / name) for name in ("phone.jpg", "page.jpg", "scan.tif")]
    monkeypatch.setattr(predict, "_BATCH", 1)
    assert cli.main(["predict", str(tmp_path / "model"), *images, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [(row["image"], row["label"]) for row in result["predictions"]] == [
        (images[0], "red above"),
        (images[2], "red above"),
    ]
    assert abs(result["predictions"][0]["probabilities"]["red above"] - 200 / 255) < 0.03
    assert result["skipped_files"] == [dict(file=images[1], reason=skipped.NOT_AN_IMAGE)]
    assert cli.main(["predict", str(tmp_path / "model"), images[0], images[1]]) == 0
    assert "1 image files skipped" in capsys.readouterr().out
    assert cli.main(["predict", str(tmp_path / "model"), images[1]]) == 2
    assert f"cannot read {images[1]}: {skipped.NOT_AN_IMAGE}" in capsys.readouterr().err


def coco(root, size, save, count=2):
    """COCO's layout; the annotations state this width and height, `save(path, i)` writes image i."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (root / split).mkdir()
        content = dict(images=[], annotations=[], categories=[dict(id=1, name="cat")])
        for i in range(count):
            save(root / split / f"{i}.jpg", i)
            content["images"].append(dict(id=i + 1, file_name=f"{i}.jpg", width=size[0], height=size[1]))
            row = dict(id=i + 1, image_id=i + 1, category_id=1, bbox=[2, 3, 10, 8], area=80, iscrowd=0)
            content["annotations"].append(row)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def prepared(root, tmp_path, capsys, *options):
    output = tmp_path / "records"
    assert cli.main(["prepare-coco", str(root), "--output", str(output), "--no-masks", "--json", *options]) == 0
    decoder = tf_example_decoder.TfExampleDecoder()
    records = tf.data.TFRecordDataset(str(output / "train.tfrecord"))
    return json.loads(capsys.readouterr().out), [decoder.decode(record)["image"].numpy() for record in records]


def test_coco_annotated_upright(tmp_path, capsys):
    root = coco(tmp_path / "data", (30, 44), lambda path, i: red_above_blue(path, (30, 44)))
    _, images = prepared(root, tmp_path, capsys)
    assert len(images) == 2
    assert all(image.shape == (44, 30, 3) and is_red_above_blue(image) for image in images)


def test_coco_annotated_as_stored(tmp_path, capsys):
    root = coco(tmp_path / "data", (44, 30), lambda path, i: red_above_blue(path, (30, 44)))
    _, images = prepared(root, tmp_path, capsys)
    assert all(image.shape == (44, 30, 3) and is_red_above_blue(image) for image in images)
    record = next(iter(tf.data.TFRecordDataset(str(tmp_path / "records" / "train.tfrecord"))))
    boxes = tf_example_decoder.TfExampleDecoder().decode(record)["groundtruth_boxes"].numpy()
    # 10 x 8 at (2, 3) of 44 x 30 pixels; clockwise: the left edge becomes the upper one, what was below the left.
    assert np.allclose(boxes * (44, 30, 44, 30), [[2, 30 - 3 - 8, 2 + 10, 30 - 3]], atol=1e-4)


def test_coco_under_false_names(tmp_path, capsys):
    """The Model Garden's decoder makes four dimensions of a GIF, and of a WebP none."""

    def save(path, i):
        Image.new("RGB", (30, 44), RED).save(path, ("GIF", "WEBP")[i], lossless=True)

    _, images = prepared(coco(tmp_path / "data", (30, 44), save), tmp_path, capsys)
    assert all(image.shape == (44, 30, 3) and np.abs(image.astype(int) - RED).max() <= 2 for image in images)


def test_coco_names_what_it_leaves_out(tmp_path, capsys):
    root = coco(tmp_path / "data", (30, 44), lambda path, i: Image.new("RGB", (30, 44)).save(path), count=3)
    (root / "train2017/0.jpg").unlink()
    (root / "train2017/1.jpg").write_bytes(b"")
    assert cli.main(["prepare-coco", str(root), "--output", str(tmp_path / "records"), "--no-masks"]) == 2
    assert "the first is 0.jpg: cannot be read (No such file or directory); --skip-missing" in capsys.readouterr().err
    result, images = prepared(root, tmp_path, capsys, "--skip-missing")
    assert len(images) == 1
    assert result["skipped_reasons"] == {"cannot be read (No such file or directory)": 1, skipped.EMPTY: 1}
    assert [row["file"] for row in result["skipped_files"]] == ["train2017/0.jpg", "train2017/1.jpg"]
