"""The recipe for a user's photographs: what depends on how many there are, and on how long they are trained on.

`official_configs/photographs_asvit_cpu.yaml` holds what never changes; `fitted` gives the rest. No TensorFlow.
"""

from __future__ import annotations

from typing import Any

# An augmentation costs accuracy before it brings any: the network has to have seen each image many times, and of many
# images more often than of few. CIFAR-10 was worth 2.8 points more after 7 epochs with crops of nearly all of an image;
# with colours and mixing it was 2 points behind in the middle of 35, and after 46 epochs with crops of half of an
# image, skipped blocks and half of the batches mixed it still knew its training images less well than those held out
# (docs/benchmarks.md, "Photographs").
_MANY = 20_000
_GENTLE_EPOCHS, _LONG_EPOCHS, _MANY_LONG_EPOCHS = 10, 20, 60
_COLOUR_EPOCHS, _MANY_COLOUR_EPOCHS = 30, 60
_MIXING_EPOCHS, _ALWAYS_MIXED_EPOCHS, _MIXING_EXAMPLES = 20, 100, 5_000
# So do phases of few tokens: 15 epochs of CIFAR-10 were worth 1 to 3 points without (docs/benchmarks.md, "Stability").
_RETOKENIZED_EPOCHS, _RETOKENIZED_TOKENS = 30, 14
_RATE, _RATE_BATCH, _LARGEST_RATE = 1e-3, 32, 2e-3
_MOST_SHUFFLED, _LEAST_SHUFFLED, _SHUFFLED_BYTES = 10_000, 256, 2**29
_LEAST_STEPS, _MOST_EPOCHS = 1_500, 400  # Of a training of few images.
_AVERAGED_SHARE = 0.02  # Of all steps, that the average of the weights reaches back.


def stored_side(image_size: tuple[int, int]) -> int:
    """Pixels that the shorter side of a stored photograph needs: the smallest crops still have twice the input's.

    Args:
      image_size: Rows and columns of the network's input.
    """
    return 4 * max(image_size)


def batch_size(examples: int) -> int:
    """Images in a training step: few steps an epoch would leave few in all, small batches waste the device.

    Args:
      examples: Training images.
    """
    return next((size for most, size in ((500, 16), (5_000, 32), (20_000, 64)) if examples < most), 128)


def epochs(examples: int) -> int:
    """Epochs of a training whose end nobody has set: 80 up to 2,000 images, fewer with their root; at least 15.

    Of a few hundred images and fewer they are more, up to 400, for enough steps.

    Args:
      examples: Training images.
    """
    epoch_steps = max(1, examples // batch_size(examples))
    enough = min(_MOST_EPOCHS, -(-_LEAST_STEPS // epoch_steps))
    return max(15, enough, round(80 * min(1.0, (2_000 / examples) ** 0.5)))


def learning_rate(batch_size: int) -> float:
    """The peak: 0.001 at 32 images a step, with the root of their number, at most 0.002.

    Source: the root is the rule for Adam (Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient
    Algorithms, NeurIPS 2022); 0.003 was seen to lose trainings at few tokens (docs/benchmarks.md, "Stability").
    """
    return min(_LARGEST_RATE, _RATE * (batch_size / _RATE_BATCH) ** 0.5)


def shuffled(examples: int, record_bytes: int) -> int:
    """Records that are shuffled in memory, still encoded; on disk they are in random order already.

    Args:
      examples: Training images.
      record_bytes: Of all of them as they are stored; 0 where it is not known.
    """
    fitting = _SHUFFLED_BYTES * examples // record_bytes if record_bytes else examples
    return min(examples, _MOST_SHUFFLED, max(_LEAST_SHUFFLED, fitting))


def fitted(
    examples: int, epochs: int, batch_size: int, image_size: tuple[int, int], base_stride: int, record_bytes: int = 0
) -> dict[str, Any]:
    """Sections of an experiment by the amount of data and training; what they leave out is the YAML's.

    Images are mirrored and cropped always; from 10 and from 20 epochs (of 20,000 images and more, from 60) crops may
    leave out more, and blocks are skipped from there on. Of 5,000 images and more batches are mixed from 20 epochs
    (Mixup, CutMix, whose labels come smoothed): the share that the square of the epochs has of that of 100, where all
    are. Colours and shapes change from 30 epochs, of 20,000 images and more from 60 (RandAugment); from 100 epochs of
    5,000 images parts are erased. Tokens are few at first from 30 epochs, where there are at least 14 a side in the
    end.

    Args:
      examples: Training images.
      epochs: Times that each is seen.
      batch_size: Images in a training step.
      image_size: Rows and columns of the network's input.
      base_stride: Pixels between its tokens at the finest tokenization.
      record_bytes: Of all training images as they are stored; 0 where it is not known.
    """
    steps = epochs * (examples // batch_size)
    many = examples >= _MANY
    long = epochs >= (_MANY_LONG_EPOCHS if many else _LONG_EPOCHS)
    retokenized = epochs >= _RETOKENIZED_EPOCHS and min(image_size) >= _RETOKENIZED_TOKENS * base_stride
    mixes = epochs >= _MIXING_EPOCHS and examples >= _MIXING_EXAMPLES
    always = mixes and epochs >= _ALWAYS_MIXED_EPOCHS
    train_data: dict[str, Any] = {
        "crop_area_range": [0.35 if always else 0.5 if long else 0.65 if epochs >= _GENTLE_EPOCHS else 0.9, 1.0],
        "shuffle_buffer_size": shuffled(examples, record_bytes),
    }
    losses: dict[str, Any] = {"one_hot": True, "label_smoothing": 0.1}
    if epochs >= (_MANY_COLOUR_EPOCHS if many else _COLOUR_EPOCHS):
        translation = max(1, min(image_size) // 10)
        # Cutout would hide part of what random erasing hides too.
        randaug = {"num_layers": 2, "magnitude": 5, "translate_const": translation, "exclude_ops": ["Cutout"]}
        train_data["aug_type"] = {"type": "randaug", "randaug": randaug}
    if mixes:
        mixing = {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "label_smoothing": 0.1}
        train_data["mixup_and_cutmix"] = {**mixing, "prob": min(1.0, (epochs / _ALWAYS_MIXED_EPOCHS) ** 2)}
        losses = {"one_hot": False, "soft_labels": True, "label_smoothing": 0.0}
    if always:
        train_data["random_erasing"] = {"probability": 0.25}
    return {
        "task": {
            "model": {"backbone": {"asvit": {"stochastic_depth": 0.1 if long else 0.0}}},
            "losses": losses,
            "retokenization": {"preset": "published" if retokenized else "none"},
            "train_data": train_data,
        },
        "trainer": {
            "optimizer_config": {
                "learning_rate": {"cosine": {"initial_learning_rate": float(f"{learning_rate(batch_size):.2g}")}},
                "ema": {"average_decay": round(1 - 1 / max(10.0, _AVERAGED_SHARE * steps), 6)},
            }
        },
    }
