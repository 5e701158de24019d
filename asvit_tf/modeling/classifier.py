"""A classifier as a plain tf_keras functional model, which needs nothing of the Model Garden."""

from __future__ import annotations

import tf_keras

from asvit_tf import choices
from asvit_tf.design import grids
from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError
from asvit_tf.modeling import layers
from asvit_tf.modeling.backbone import AsViT


def build_classifier(
    topology: Topology | str,
    num_classes: int,
    image_size: int | tuple[int, int] = 224,
    position_embedding: bool = True,
    *,
    representation_size: int | None = None,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    window: str = "split",
    base_stride: int | None = None,
    initialization: str = choices.RELEASED,
    seed: int | None = None,
    name: str = "asvit_classifier",
) -> tf_keras.Model:
    """A functional model: backbone, pooled features, dropout, a linear layer.

    The base stride is `grids.base_stride(image_size)`: 4 from 96 pixels, 2 from 32, 1 below.

    The layers are named "backbone" (an `AsViT`), "features", "dropout" and "logits". A `RetokenizationCallback` changes
    the stem's stride and dilation during `fit`; the backbone's `set_tokenization` changes them by hand. The number of
    parameters is that of `counting.count(..., representation=False)`.

    Args:
      topology: A `Topology`, its string, or the name of a size ("small", "base", "large", "seed").
      num_classes: Width of the logits, >= 1.
      image_size: Side of a square image, or (rows, columns), in pixels, >= 1.
      position_embedding: Add a learned position embedding to the stem's tokens.
      representation_size: Width of a tanh layer between pooled features and dropout; None for no such layer.
      dropout: Rate on the features, in [0, 1).
      stochastic_depth: Rate of the last block, in [0, 1); it rises linearly from 0 at the first.
      window: "split" or "fixed", as in `AsViT`.
      base_stride: Pixels between tokens at the finest tokenization; None for what fits the image size.
      initialization: Of the backbone's linear maps, as in `AsViT`: "released", or "lecun" for narrow networks.
      seed: Seed of the initial weights; None draws a fresh one.
      name: Name of the model; two in one model need different names.

    Returns:
      A model from images [B, rows, columns, 3], normalized, to logits [B, num_classes], float32.

    Raises:
      UserError: The topology does not parse, or an option is out of range; the message says what is allowed.

    A process that loads the saved model imports `AsViT` first, so that Keras knows the class:
    `from asvit_tf import AsViT`, then `tf_keras.models.load_model(path)`.

    Example:
      model = build_classifier("small", num_classes=10, image_size=64)
      model.compile("adam", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise UserError(f"num_classes is {num_classes!r}; allowed are whole numbers from 1")
    if not 0 <= dropout < 1:
        raise UserError(f"dropout is {dropout}; allowed are rates from 0 to below 1")
    rows, columns = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(rows, columns) < 1:
        raise UserError(f"image size is {rows} x {columns}; both sides must be known and at least 1")
    seeds = layers.seed_stream(seed)
    backbone = AsViT(
        topology,
        tf_keras.layers.InputSpec(shape=[None, rows, columns, 3]),
        position_embedding=position_embedding,
        base_stride=grids.base_stride((rows, columns)) if base_stride is None else base_stride,
        window=window,
        representation_size=representation_size,
        stochastic_depth=stochastic_depth,
        initialization=initialization,
        seed=next(seeds),
        name="backbone",
    )
    images = tf_keras.Input((rows, columns, 3), name="images")
    features = tf_keras.layers.Flatten(name="features")(backbone(images)["pre_logits"])  # [B, 1, 1, C] -> [B, C]
    features = tf_keras.layers.Dropout(dropout, seed=next(seeds), name="dropout")(features)
    head = tf_keras.layers.Dense(
        num_classes,
        kernel_initializer=layers.linear_initializer(next(seeds)),
        dtype="float32",  # A loss needs it, also where the policy computes the rest in bfloat16.
        name="logits",
    )
    return tf_keras.Model(images, head(features), name=name)
