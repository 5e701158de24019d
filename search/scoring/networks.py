"""As-ViT as the published measures see a network, and these measures for every draw of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from asvit_tf.measures.registry import ATTENTION, FFN, OTHER, STEM, Kernel, Network, Programs, Trace
from asvit_tf.modeling import initialization as weights
from asvit_tf.modeling.backbone import AsViT
from search.scoring.score import Clock

CLASSES = 10  # Of the head, and of the labels that are drawn.
_HEAD, _LABELS, _SIGNS = range(3)  # What has a stream of random numbers of its own.


def network_of(backbone: AsViT, classes: int = CLASSES) -> Network:
    """A backbone as a `Network`: features behind the final norm, as a classifier has them; outputs after the attention
    and after the FFN of every block, as AZ-NAS takes them of a ViT. The head is all 0 at first.

    Args:
      backbone: With its final norm, and without a representation layer.
      classes: Of the head.
    """

    def through(normalization: str) -> Callable[[tf.Tensor], Trace]:
        def call(images: tf.Tensor) -> Trace:
            with backbone.normalized_by(normalization), backbone.observed() as seen:
                features = backbone(images, training=False)["pre_logits"][:, 0, 0]
            outputs: dict[str, tf.Tensor] = {}
            entries: dict[str, tf.Tensor] = {}
            for name, block in seen.items():
                outputs |= {f"{name}.attention": block.attended, f"{name}.ffn": block.output}
                entries |= {f"{name}.attention": block.entry, f"{name}.ffn": block.attended}
            return Trace(features, outputs, {name: block.hidden for name, block in seen.items()}, entries)

        return call

    kernels = [Kernel(backbone.stem.kernel, STEM), *(Kernel(merging.kernel, OTHER) for merging in backbone.mergings)]
    for stage in backbone.stages:
        for block in stage.blocks:
            kernels += [Kernel(layer.kernel, ATTENTION) for layer in (block.attention.qkv, block.attention.proj)]
            kernels += [Kernel(layer.kernel, FFN) for layer in (block.fc1, block.fc2)]
    known = {kernel.variable.ref() for kernel in kernels}
    others = [variable for variable in backbone.trainable_variables if variable.ref() not in known]
    head = tf.Variable(np.zeros((backbone.topology.widths[-1], classes), np.float32), name="head")
    return Network(through("layer"), kernels, others, head, through("identity"))


class PublishedMeasures:
    """Measures of `choices.PROXIES` for one network, whose weights are drawn again and again.

    Labels are drawn, too, as many of each class: no other measure of a search needs them, and a score stays a function
    of topology, settings and images. Before any training the features know nothing of the true classes.

    Args:
      network: The network, with a head of `CLASSES` classes.
      seed: Of the head, the labels, and what measures draw.
      images: [B, H, W, 3], normalized; B >= 2.
    """

    def __init__(self, network: Network, seed: int, images: tf.Tensor):
        self._seed, self._images = seed, images
        self._programs = Programs(network)
        order = np.random.default_rng([seed, _LABELS]).permutation(images.shape[0])
        self._labels = order % CLASSES

    def measure(
        self, names: Sequence[str], repeat: int, scheme: str, clock: Clock
    ) -> Iterator[tuple[str, float, str | None]]:
        """Name, value, and why it is undefined, of each measure for the present weights; its seconds go to the clock.

        Args:
          names: Measures of `choices.PROXIES`.
          repeat: Number of the draw, from 0.
          scheme: Of the head's weights, as of `initialization.draw_linear`.
          clock: Receives the seconds of all together, as `published`, and of each with the passes that it shares.
        """
        if not names:
            return
        head = self._programs.network.head
        assert head is not None
        head.assign(weights.drawn(tuple(head.shape), np.random.default_rng([self._seed, _HEAD, repeat]), scheme))
        (seed,) = np.random.SeedSequence([self._seed, _SIGNS, repeat]).generate_state(1)
        with clock("published"):
            measured = self._programs.measure(names, self._images, self._labels, int(seed >> 1))
        for name, (value, reason, seconds) in measured.items():
            clock.add_part(name, seconds)
            yield name, value, reason
