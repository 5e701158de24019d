"""What a classifier that knows only the class shares reaches, and whether a network beats it. No TensorFlow.

Confusions are counts [K, K] of K classes: a row for each true class, a column for each predicted one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from asvit_tf.errors import NotLearnedError

# A network has to beat chance by more standard errors than this; a normal variable exceeds 3 once in 740 times.
_STANDARD_ERRORS = 3.0

# Where only accuracy and loss are known, a network guesses if its loss is at least 0.99 of the loss of guessing and its
# accuracy at most a tenth of the way from the majority share to 1. Overfitting gives such a loss, not such an accuracy.
_LOSS, _ACCURACY = 0.99, 0.1


def guessing_loss(
    shares: Sequence[float] | np.ndarray,
    label_smoothing: float = 0.0,
    prediction: Sequence[float] | np.ndarray | None = None,
) -> float:
    """Cross-entropy, in nats, of a prediction that is the same for every image.

    Over labels with mean q, the cross-entropy of a constant prediction p is the entropy of q plus the divergence of p
    from it (Gibbs' inequality): q is the best one, and its entropy the loss.

    Args:
      shares: Shares of the K classes in the labels, [K]; they add up to 1.
      label_smoothing: s of q = (1 - s) * shares + s / K.
      prediction: Shares that are predicted, smoothed likewise, [K]; None for the best.
    """
    truth = _smoothed(shares, label_smoothing)
    guess = truth if prediction is None else _smoothed(prediction, label_smoothing)
    return -sum(share * math.log(p) for share, p in zip(truth.tolist(), guess.tolist()) if share != 0)


def _smoothed(shares: Sequence[float] | np.ndarray, label_smoothing: float) -> np.ndarray:
    return (1 - label_smoothing) * np.asarray(shares, np.float64) + label_smoothing / len(shares)


def majority_share(confusion: np.ndarray) -> float:
    """The share of the most frequent true class, the accuracy of always naming it; NaN without images."""
    return float(_ratio(confusion.sum(axis=1).max(), confusion.sum()))


def balanced_accuracy(confusion: np.ndarray) -> float:
    """The mean over classes of the share of their images that are recognized; classes without images are left out."""
    present = confusion.sum(axis=1) > 0
    recalls = np.diag(confusion)[present] / confusion.sum(axis=1)[present]
    return float(_ratio(recalls.sum(), len(recalls)))


def interval(accuracy: float, examples: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy over so many images: where that of the network itself may lie.

    Raises:
      ValueError: There are no images.
    """
    found = stats.binomtest(round(accuracy * examples), examples).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A network on held-out images.

    Attributes:
      accuracy: Share of images recognized.
      majority_share: The same of always naming the most frequent class.
      balanced_accuracy: See `balanced_accuracy`.
      chance: The balanced accuracy of naming one class always: 1 / number of classes that have images.
      examples: Images.
      learned: See `judge`.
      too_few_examples: There are several classes, but not even a network that recognizes every image would count as
        learned: they are too few to show it.
    """

    accuracy: float
    majority_share: float
    balanced_accuracy: float
    chance: float
    examples: int
    learned: bool
    too_few_examples: bool

    @property
    def reason(self) -> str:
        """The verdict in one line."""
        return in_words(dataclasses.asdict(self))


def judge(confusion: np.ndarray) -> Verdict:
    """Whether a network has learned more than the shares of the classes.

    It has if one of two numbers lies beyond what chance gives by more than three standard errors of chance. Of both,
    one recognized image is taken off first (of the balanced accuracy, one of the rarest class): it may have been luck,
    and where a class has few images, three standard errors alone would often be passed by it.

    - the accuracy, over n images, beyond the share p of the majority class: a binomial, with variance p (1 - p) / n;
    - the balanced accuracy over K classes. Where predictions know nothing of the labels, a class is recognized as often
      as it is named at all: its recall has expectation q_c, the share of predictions that are c, and variance
      q_c (1 - q_c) / n_c. The mean of the recalls then has the mean of the q_c as expectation (1 / K where every
      prediction is a class that has images) and sum(q_c (1 - q_c) / n_c) / K^2 as variance.

    A network that always names one class has not learned; nor has any where there is one class only. Where the images
    are so few that even a perfect network would not pass, nothing is known (`too_few_examples`).

    Args:
      confusion: Counts, [K, K].
    """
    confusion = np.asarray(confusion, np.float64)
    classes = int((confusion.sum(axis=1) > 0).sum())
    total = confusion.sum()
    return Verdict(
        accuracy=float(_ratio(np.trace(confusion), total)),
        majority_share=majority_share(confusion),
        balanced_accuracy=balanced_accuracy(confusion),
        chance=float(_ratio(1, classes)),
        examples=int(total),
        learned=_beats_chance(confusion),
        too_few_examples=classes > 1 and not _beats_chance(np.diag(confusion.sum(axis=1))),
    )


def _beats_chance(confusion: np.ndarray) -> bool:
    """Whether accuracy or balanced accuracy is beyond chance, as `judge` says."""
    images, named = confusion.sum(axis=1), confusion.sum(axis=0)
    total, present = images.sum(), images > 0
    classes = int(present.sum())
    if not classes:
        return False
    majority = majority_share(confusion)
    shares, images = named[present] / total, images[present]
    error = math.sqrt(majority * (1 - majority) / total)
    balanced_error = math.sqrt(np.sum(shares * (1 - shares) / images)) / classes
    return bool(
        np.trace(confusion) / total - 1 / total - majority > _STANDARD_ERRORS * error
        or balanced_accuracy(confusion) - 1 / (classes * images.min()) - shares.mean()
        > _STANDARD_ERRORS * balanced_error
    )


def merit(metrics: Mapping[str, float]) -> tuple[float, float, float] | None:
    """What the better of two evaluations of a classifier has more of, compared from left to right.

    Whether it learned; the mean of accuracy and balanced accuracy, which are the same where all classes have as many
    images; the lower loss. Where a class is rare, the accuracy alone would take a network that names the most frequent
    one; the balanced accuracy alone would take one that happened to recognize a few images of the rare one.

    Args:
      metrics: `accuracy`, `validation_loss`, and, unless an image may have several labels, `balanced_accuracy` and
        `learned`.

    Returns:
      None where a number is not finite: there is no network behind it.
    """
    accuracy = metrics["accuracy"]
    mean = (accuracy + metrics.get("balanced_accuracy", accuracy)) / 2
    merits = (float(metrics.get("learned", 1)), mean, -metrics["validation_loss"])
    return merits if all(map(math.isfinite, merits)) else None


def guesses(accuracy: float, loss: float, shares: Sequence[float]) -> bool:
    """Whether a network does no better than one that knows only the class shares, where its confusion is not known.

    Args:
      accuracy, loss: On held-out images; the loss is the cross-entropy in nats, without label smoothing.
      shares: Shares of the classes in these images.
    """
    majority = max(shares)
    return loss >= _LOSS * guessing_loss(shares) and accuracy <= majority + _ACCURACY * (1 - majority)


def accuracies_in_words(metrics: Mapping[str, float]) -> str:
    """The accuracy beside what it has to be compared with.

    Args:
      metrics: `accuracy`, `majority_share` and `balanced_accuracy`.
    """
    return (
        f"accuracy {metrics['accuracy']:.3f}, majority class {metrics['majority_share']:.3f}, "
        f"balanced accuracy {metrics['balanced_accuracy']:.3f}"
    )


def in_words(metrics: Mapping[str, float]) -> str:
    """One line: whether the network learned, and by which numbers.

    Args:
      metrics: As `accuracies_in_words`, `learned`, and, unless an earlier version made them, `too_few_examples`.
    """
    if metrics["learned"]:
        return f"the network beats the majority class beyond chance: {accuracies_in_words(metrics)}"
    if metrics.get("too_few_examples"):
        return (
            "the held-out images are too few to show whether anything was learned: "
            f"{accuracies_in_words(metrics)}; hold out more"
        )
    if metrics["majority_share"] == 1:
        return (
            "all held-out images are of one class, so that they cannot show whether anything was learned: "
            f"{accuracies_in_words(metrics)}"
        )
    return (
        f"the network does not beat the majority class beyond chance: {accuracies_in_words(metrics)}; check that the "
        "labels belong to their images, then train longer, with another learning rate, or on more images"
    )


def is_failure(metrics: Mapping[str, float]) -> bool:
    """Whether an evaluation shows that a network learned nothing; that of a detector, without `learned`, does not."""
    return not metrics.get("learned", True) and not metrics.get("too_few_examples")


def require_learned(metrics: Mapping[str, float]) -> None:
    """Refuses to call a network that learned nothing a success.

    Args:
      metrics: Metrics of an evaluation.

    Raises:
      NotLearnedError: It learned nothing.
    """
    if is_failure(metrics):
        raise NotLearnedError(in_words(metrics))


def _ratio(part: float, whole: float) -> float:
    """NaN where the whole is nothing."""
    return part / whole if whole else math.nan
