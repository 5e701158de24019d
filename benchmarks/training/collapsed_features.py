"""What is left of the images inside a trained network: how far features differ between images, stage by stage.

    python benchmarks/training/collapsed_features.py RUN

`RUN` is a directory of `asvit run`. For each stage, on the held-out images, of the features averaged over an image's
tokens: their size (root mean square) and their deviation between images as a share of it. In a network that learned the
share is large; one that lost everything answers every image with the same features.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tf_keras

from asvit_tf import registry_imports  # noqa: F401
from asvit_tf.dataloaders import classification as data
from asvit_tf.dataloaders import images
from asvit_tf.design.topology import Topology
from asvit_tf.modeling import backbone as asvit_backbone
from asvit_tf.modeling import checkpoints


def main(run: Path) -> None:
    import json

    result = json.loads((run / "result.json").read_text())
    settings = json.loads((run / "settings.json").read_text())
    topology, side = Topology.parse(result["grown"]), settings["image_size"]
    dataset = data.Dataset.load(run / "data")
    model = tf_keras.Model()
    spec = tf_keras.layers.InputSpec(shape=[None, side, side, 3])
    model.backbone = asvit_backbone.AsViT(topology, spec, representation_size=topology.widths[-1])
    checkpoints.initialize(model, str(run / "train"), "backbone")
    source = images.Source(data_path=dataset.validation_path)
    batch, _ = images.sample(source, dataset.validation_examples, (side, side), seed=0)
    print(f"{result['grown']}, accuracy {result['accuracy']:.3f}")
    for level, features in model.backbone(batch).items():
        pooled = tf.reduce_mean(features, axis=(1, 2)).numpy()
        size = np.sqrt(np.mean(pooled**2))
        print(f"{level:<10} size {size:8.3f}   deviation between images {np.sqrt(pooled.var(0).mean()) / size:.5f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
