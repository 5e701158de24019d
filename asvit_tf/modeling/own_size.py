"""The class of every pixel of a picture at its own size, from logits at the size of a network.

The network saw the picture resized, in the upper left part of its input. Its logits there are resized bilinearly to the
picture's own size, as `tf.image.resize` does with that part alone; only classes are kept, because the logits of a large
picture with many classes fill the memory.
"""

from __future__ import annotations

import tensorflow as tf

_NUMBERS = 1 << 22  # Logits at the own size that are in memory at once.


def likeliest(logits: tf.Tensor, part: tf.Tensor, own: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """The likeliest class of every pixel of one picture.

    Args:
      logits: [H, W, classes], float; static shape.
      part: Rows and columns of them that show the picture, [2], int32.
      own: Rows and columns of the picture itself, [2], int32.
      size: Rows and columns of the result, at least `own`.

    Returns:
      [rows, columns] int32; what lies outside of the picture repeats its border.
    """
    rows, columns = size
    across = _places(tf.range(columns), part[1], own[1])
    strip = max(1, min(rows, _NUMBERS // (columns * logits.shape[-1])))
    strips = -(-rows // strip)

    def of_strip(its_rows: tf.Tensor) -> tf.Tensor:
        high = _between(logits, _places(its_rows, part[0], own[0]), axis=0)  # [strip, W, classes]
        return tf.argmax(_between(high, across, axis=1), axis=-1, output_type=tf.int32)

    places = tf.reshape(tf.range(strips * strip), (strips, strip))
    spec = tf.TensorSpec((strip, columns), tf.int32)
    found = tf.map_fn(of_strip, places, fn_output_signature=spec, parallel_iterations=1)
    return tf.reshape(found, (strips * strip, columns))[:rows]


def part_of(image_info: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`part` and `own` of `likeliest`, [2] each, from the Model Garden's `image_info` [4, 2]."""
    own = image_info[0]
    return tf.cast(tf.round(own * image_info[2]), tf.int32), tf.cast(own, tf.int32)


def shrunk(truth: tf.Tensor, image_info: tf.Tensor, size: tuple[int, int], outside: int) -> tf.Tensor:
    """The classes of pictures as a network of this size sees them: at each of its pixels that of the nearest one.

    Args:
      truth: [B, rows, columns, 1]; a picture is the upper left part.
      image_info: [B, 4, 2].
      size: Rows and columns of the result, H and W.
      outside: What stands where no picture is.

    Returns:
      [B, H, W, 1], in the dtype of `truth`.
    """
    own = image_info[:, 0]
    part = tf.round(own * image_info[:, 2])
    inside = []
    for axis in (0, 1):
        pixels = tf.range(size[axis], dtype=tf.float32)[None]  # [1, n]
        share = own[:, axis, None] / part[:, axis, None]
        places = tf.minimum(tf.floor((pixels + 0.5) * share), own[:, axis, None] - 1)
        truth = tf.gather(truth, tf.cast(places, tf.int32), axis=1 + axis, batch_dims=1)
        inside.append(pixels < part[:, axis, None])  # [B, n]
    is_inside = inside[0][:, :, None, None] & inside[1][:, None, :, None]
    return tf.where(is_inside, truth, tf.cast(outside, truth.dtype))


def _places(pixels: tf.Tensor, part: tf.Tensor, own: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Neighbours before and behind each pixel's centre among the logits, [n], and the share of the one behind."""
    centres = (tf.cast(pixels, tf.float32) + 0.5) * (tf.cast(part, tf.float32) / tf.cast(own, tf.float32)) - 0.5
    centres = tf.clip_by_value(centres, 0.0, tf.cast(part - 1, tf.float32))
    before = tf.cast(tf.floor(centres), tf.int32)
    return before, tf.minimum(before + 1, part - 1), centres - tf.cast(before, tf.float32)


def _between(values: tf.Tensor, places: tuple[tf.Tensor, tf.Tensor, tf.Tensor], axis: int) -> tf.Tensor:
    """Values [H, W, classes] between neighbours along the first or second axis."""
    before, behind, share = places
    share = tf.cast(tf.reshape(share, (-1, 1, 1) if axis == 0 else (1, -1, 1)), values.dtype)
    lower = tf.gather(values, before, axis=axis)
    return lower + (tf.gather(values, behind, axis=axis) - lower) * share
