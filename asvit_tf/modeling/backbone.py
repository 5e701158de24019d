"""The As-ViT backbone: a topology as a tf_keras model that follows the Model Garden's conventions."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from asvit_tf import choices, precision, private_names
from asvit_tf.design import counting, grids
from asvit_tf.design.retokenization import Tokenization
from asvit_tf.design.topology import STRIDE, Topology
from asvit_tf.errors import UserError
from asvit_tf.modeling import blocks, layers

FIRST_LEVEL = 2  # A feature map of level l has 2**l pixels per token at a base stride of 4.
DEFAULT_INPUT = tf_keras.layers.InputSpec(shape=[None, 224, 224, 3])


@tf_keras.saving.register_keras_serializable(package="asvit_tf")
class AsViT(tf_keras.Model):
    """As-ViT: stem, then four stages of windowed attention on ever coarser token grids.

    Source: "Auto-scaling Vision Transformers without Training", ICLR 2022; the architecture is that of the released
    search code, whose outputs this one reproduces to rounding (tests/modeling/test_reference_weights.py).

    Args:
      topology: A `Topology`, its string, or the name of a size.
      input_specs: `[batch, H, W, 3]`; H and W must be known, and may be any size from 1.
      position_embedding: Add a learned position embedding to the stem's tokens.
      normalization: "layer", or "identity" to skip every norm (their variables stay).
      tokenization: Stride and dilation of the stem; None for the base stride and 1.
      base_stride: Pixels between tokens at the finest tokenization, whose grid the position embedding has;
        `grids.base_stride` gives what fits an image size.
      window: "split" fixes the number of attention windows per side, as the topology says; "fixed" fixes their edge,
        and the grid of the position embedding, at what they are on a 224 x 224 image, for detection at large sizes.
      representation_size: Width of the tanh layer behind the pooled features, or None for no such layer. The released
        classifier has one as wide as the last stage.
      pre_logits: Build the final norm, and return "pre_logits". False where only the stages' outputs are used, as in
        detection: the norm would get no gradient.
      stochastic_depth: Rate of the last block; it rises linearly from 0 at the first. In [0, 1).
      seed: Seed of the initial weights; None draws a fresh one.
      attention: How training treats attention's scores: "whole", "chunked" or "auto" (see `WindowedAttention`).
      initialization: Of the linear maps, as `layers.linear_initializer`: "released" or "lecun".
      recompute: What training computes again for the gradient instead of keeping it: "none", or "blocks".
      kwargs: As of every Keras model; `dtype`, a policy such as "mixed_bfloat16", holds for all layers inside.

    Call: images [B, H, W, 3], normalized, to a dict: "2" to "5", the output of every stage [B, rows, columns, C],
    and "pre_logits" [B, 1, 1, C or representation_size], the pooled features behind the final norm, where asked for.

    Raises:
      UserError: An unknown option, or an image size that is not known, here or in a call; a tensor of Keras 3.
    """

    def __init__(
        self,
        topology: Topology | str,
        input_specs: tf_keras.layers.InputSpec = DEFAULT_INPUT,
        position_embedding: bool = True,
        normalization: str = "layer",
        tokenization: Tokenization | None = None,
        window: str = "split",
        representation_size: int | None = None,
        stochastic_depth: float = 0.0,
        pre_logits: bool = True,
        seed: int | None = None,
        base_stride: int = STRIDE,
        attention: str = choices.WHOLE,
        recompute: str = "none",
        initialization: str = choices.RELEASED,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.topology = topology if isinstance(topology, Topology) else Topology.parse(topology)
        self._config = dict(
            topology=str(self.topology),
            input_shape=list(input_specs.shape),
            position_embedding=position_embedding,
            base_stride=base_stride,
            window=window,
            representation_size=representation_size,
            stochastic_depth=stochastic_depth,
            pre_logits=pre_logits,
            seed=seed,
            attention=attention,
            recompute=recompute,
            initialization=initialization,
        )
        image_size = tuple(input_specs.shape[1:3])
        if None in image_size or min(image_size) < 1:
            raise UserError(f"image size is {image_size[0]} x {image_size[1]}; both sides must be known and at least 1")
        for option, allowed in choices.BACKBONE.items():
            if self._config[option] not in allowed:
                raise UserError(f"unknown {option} {self._config[option]!r}; allowed are {', '.join(allowed)}")
        if not 0 <= stochastic_depth < 1:
            raise UserError(f"stochastic_depth is {stochastic_depth}; allowed are rates from 0 to below 1")
        if representation_size is not None and not pre_logits:
            raise UserError(f"representation_size is {representation_size} without pre_logits; it must be None")
        self._image_size = image_size
        tokenization = tokenization or Tokenization(base_stride)

        # Layers take the policy that is global when they are made, and this model may have been given another.
        with precision.policy(self.dtype_policy):
            seeds = layers.seed_stream(seed)
            self.stem = layers.Stem(
                self.topology.width,
                self.topology.stages[0].kernel_size,
                tokenization.stride,
                tokenization.dilation,
                seed=next(seeds),
                name="stem",
            )
            self.position_embedding = None
            if position_embedding:
                grid = counting.position_grid(image_size, window, base_stride)
                self.position_embedding = layers.PositionEmbedding(grid, seed=next(seeds), name="position_embedding")

            edges = self.topology.fixed_window_edges() if window == "fixed" else (None,) * len(self.topology.stages)
            drop_rates = iter(np.linspace(0.0, stochastic_depth, sum(self.topology.depths)).tolist())
            self.mergings: list[layers.PatchMerging] = []
            self.stages: list[blocks.Stage] = []
            for index, stage in enumerate(self.topology.stages):
                width = self.topology.widths[index]
                if index:
                    self.mergings.append(
                        layers.PatchMerging(
                            width,
                            stage.kernel_size,
                            seed=next(seeds),
                            initialization=initialization,
                            name=f"merging_{index}",
                        )
                    )
                stage_blocks = [
                    blocks.Block(
                        width=width,
                        num_heads=self.topology.heads[index],
                        head_dim=self.topology.head_dims[index],
                        expansion_ratio=stage.expansion_ratio,
                        drop_rate=next(drop_rates),
                        seed=next(seeds),
                        scores=attention,
                        recomputed=recompute == "blocks",
                        initialization=initialization,
                        name=f"block_{depth}",
                    )
                    for depth in range(stage.depth)
                ]
                self.stages.append(blocks.Stage(stage_blocks, stage.splits, edges[index], name=f"stage_{index}"))
            self.norm = layers.LayerNorm(name="norm") if pre_logits else None
            self.representation = None
            if representation_size is not None:
                self.representation = tf_keras.layers.Dense(
                    representation_size,
                    activation="tanh",
                    kernel_initializer=layers.linear_initializer(next(seeds), initialization),
                    name="representation",
                )
            self.set_normalization(normalization)
            # Creates every variable now, inside the caller's strategy scope. Not by a call on a symbolic input: Keras
            # keeps those in a graph that lives as long as the process, and a search makes hundreds of networks.
            self.build((None, *input_specs.shape[1:]))

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        # Here, because Keras would wrap what `call` says into many lines.
        _check_images(images, self._image_size)
        return super().__call__(images, *args, **kwargs)

    def call(self, images, training=None):
        endpoints = {}
        x = self.stem(images)
        if self.position_embedding is not None:
            x = self.position_embedding(x)
        for index, stage in enumerate(self.stages):
            if index:
                x = self.mergings[index - 1](x)
            x = stage(x, training=training)
            endpoints[str(FIRST_LEVEL + index)] = x
        if self.norm is None:
            return endpoints
        pooled = tf.reduce_mean(self.norm(x), axis=(1, 2), keepdims=True)
        endpoints["pre_logits"] = pooled if self.representation is None else self.representation(pooled)
        return endpoints

    @property
    def output_specs(self) -> dict[str, tf.TensorShape]:
        """Shape of every stage's output at the present tokenization, by level; decoders want no "pre_logits" here."""
        sides = grids.token_grids(self._image_size, self.tokenization.stride)
        return {
            str(FIRST_LEVEL + i): tf.TensorShape([None, *side, width])
            for i, (side, width) in enumerate(zip(sides, self.topology.widths))
        }

    @property
    def tokenization(self) -> Tokenization:
        """The stem's present stride and dilation."""
        return Tokenization(self.stem.stride, self.stem.dilation)

    def set_tokenization(self, tokenization: Tokenization) -> None:
        """Changes the stem's stride and dilation, and with them the token grids; no variable is touched.

        A program that was traced before keeps the old tokenization until it is traced again.
        """
        self.stem.stride, self.stem.dilation = tokenization.stride, tokenization.dilation

    @property
    def normalization(self) -> str:
        """ "layer" or "identity"."""
        return "identity" if self.stem.norm.identity else "layer"

    def set_normalization(self, normalization: str) -> None:
        """Switches every norm on ("layer") or off ("identity"); programs traced before do not change."""
        if normalization not in choices.NORMALIZATIONS:
            raise UserError(f"unknown normalization {normalization!r}; allowed are {', '.join(choices.NORMALIZATIONS)}")
        for layer in private_names.layers_of(self):
            if isinstance(layer, (layers.LayerNorm, layers.PatchMerging)):
                layer.identity = normalization == "identity"

    @contextlib.contextmanager
    def normalized_by(self, normalization: str) -> Iterator[None]:
        """`set_normalization` for the length of a `with` block."""
        before = self.normalization
        self.set_normalization(normalization)
        try:
            yield
        finally:
            self.set_normalization(before)

    @contextlib.contextmanager
    def observed(self) -> Iterator[dict[str, blocks.Observed]]:
        """Yields what goes through each block, by name and in order, when the network is called in a `with` block."""
        seen: dict[str, blocks.Observed] = {}
        named = {f"{stage.name}.{block.name}": block for stage in self.stages for block in stage.blocks}
        for name, block in named.items():
            block.observer = functools.partial(seen.__setitem__, name)
        try:
            yield seen
        finally:
            for block in named.values():
                block.observer = None

    def get_config(self):
        return {
            **self._config,
            "name": self.name,
            "dtype": self.dtype_policy.name,
            "normalization": self.normalization,
            "tokenization": [self.tokenization.stride, self.tokenization.dilation],
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["input_specs"] = tf_keras.layers.InputSpec(shape=config.pop("input_shape"))
        config["tokenization"] = Tokenization(*config["tokenization"])
        return cls(**config)


def _check_images(images: Any, image_size: tuple[int, int]) -> None:
    """Refuses what would fail somewhere inside of the network."""
    if type(images).__module__.partition(".")[0] == "keras":
        raise UserError(
            "AsViT is a tf_keras model and cannot take a tensor of Keras 3, which tf.keras makes; "
            "build the model with tf_keras.Input, or set TF_USE_LEGACY_KERAS=1 before TensorFlow is imported"
        )
    shape = getattr(images, "shape", None)
    if isinstance(shape, tf.TensorShape) and (shape.rank is None or None in shape[1:3].as_list()):
        raise UserError(
            f"AsViT: the images have the shape {shape}; height and width must be known when the program is traced: "
            f"resize them in the data set by tf.image.resize(image, {list(image_size)}), or, where they have that size "
            f"already, call image.set_shape([{image_size[0]}, {image_size[1]}, 3]) there"
        )
