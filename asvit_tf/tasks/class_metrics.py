"""A classifier's metrics against the accuracy that class shares alone give (see `baselines`)."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras
from official.vision.configs import image_classification

from asvit_tf.tasks import baselines

# Fields of `baselines.Verdict` that an evaluation reports beside the accuracy.
REPORTED = ("balanced_accuracy", "majority_share", "learned", "too_few_examples")
_PRIOR = 5.0  # Images of each class.


class Judged(tf_keras.metrics.Metric):
    """A field of the `baselines.Verdict` on all images since the last reset, as float32; booleans are 0 or 1.

    The counts live on the devices; the verdict is made on the host, so `result` is for the end of an evaluation,
    outside of traced programs.

    Args:
      name: The field.
      num_classes: K.
      counted_by: Another one over the same images, whose counts this one shares; None for counts of its own.
    """

    def __init__(self, name: str, num_classes: int, counted_by: Judged | None = None):
        super().__init__(name=name, dtype=tf.float32)
        self._num_classes = num_classes
        self._counts_itself = counted_by is None
        if counted_by is None:
            self.confusion = self.add_weight("confusion", (num_classes, num_classes), initializer="zeros")
        else:
            self.confusion = counted_by.confusion

    def update_state(self, labels: tf.Tensor, outputs: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        """Counts a batch.

        Args:
          labels: Classes, [B]; or their shares, [B, K], of which the largest counts.
          outputs: Logits or probabilities, [B, K].
          sample_weight: Not used.
        """
        if self._counts_itself:
            truth = labels if labels.shape.rank == 1 else tf.argmax(labels, -1)
            counts = tf.math.confusion_matrix(truth, tf.argmax(outputs, -1), self._num_classes, dtype=tf.float32)
            self.confusion.assign_add(counts)

    def reset_state(self) -> None:
        """Forgets the counts, if they are its own."""
        if self._counts_itself:
            self.confusion.assign(tf.zeros(self.confusion.shape))

    @tf.autograph.experimental.do_not_convert
    def result(self) -> tf.Tensor:
        """The field, a scalar."""
        verdict = baselines.judge(np.asarray(tf.convert_to_tensor(self.confusion)))
        return tf.constant(getattr(verdict, self.name), tf.float32)


class GuessingLoss(tf_keras.metrics.Metric):
    """The training loss, in nats, that one and the same prediction for every image would have had since the last reset.

    With s the shares of the classes since the reset and q those of all labels since the process began, both smoothed as
    the loss smooths labels, it is -sum(s log q): a block of steps is compared with guessing on its own images, so that
    a block with many images of a rare class is no alarm. Of each class a few images are added to q, which without them
    would know the labels of a few first batches too well.

    As `Judged`, it adds up on the devices and is evaluated on the host.

    Args:
      num_classes: K.
      label_smoothing: That the loss applies to the labels.
      loss_weight: That the loss is multiplied by.
      name: Name of the metric.
    """

    def __init__(
        self, num_classes: int, label_smoothing: float = 0.0, loss_weight: float = 1.0, name: str = "guessing_loss"
    ):
        super().__init__(name=name, dtype=tf.float32)
        self._num_classes = num_classes
        self._label_smoothing = label_smoothing
        self._loss_weight = loss_weight
        self.labels = self.add_weight("labels", (num_classes,), initializer="zeros")
        self.all_labels = self.add_weight("all_labels", (num_classes,), initializer="zeros")

    def update_state(self, labels: tf.Tensor, outputs: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        """Adds a batch of labels: classes, [B], or their shares, [B, K]. The rest is not used."""
        shares = tf.one_hot(labels, self._num_classes) if labels.shape.rank == 1 else tf.cast(labels, tf.float32)
        for counts in (self.labels, self.all_labels):
            counts.assign_add(tf.reduce_sum(shares, 0))

    def reset_state(self) -> None:
        """Forgets s; q stays."""
        self.labels.assign(tf.zeros_like(self.labels))

    @tf.autograph.experimental.do_not_convert
    def result(self) -> tf.Tensor:
        """The loss, a scalar; NaN before the first batch."""
        labels, known = (
            np.asarray(tf.convert_to_tensor(counts), np.float64) for counts in (self.labels, self.all_labels)
        )
        total = labels.sum()
        shares = labels / total if total else np.full_like(labels, np.nan)
        known += _PRIOR
        loss = baselines.guessing_loss(shares, self._label_smoothing, known / known.sum())
        return tf.constant(self._loss_weight * loss, tf.float32)


def build(task: image_classification.ImageClassificationTask, training: bool) -> list[tf_keras.metrics.Metric]:
    """The metrics of a task's training or evaluation; none where an image may have several labels.

    Args:
      task: The configuration of the task.
      training: Whether for the training; its only one is `guessing_loss`, where the loss is a cross-entropy over
        classes.
    """
    num_classes, losses = task.model.num_classes, task.losses
    if task.train_data.is_multilabel:
        return []
    if not training:
        counting = Judged(REPORTED[0], num_classes)
        return [counting, *(Judged(name, num_classes, counting) for name in REPORTED[1:])]
    if losses.use_binary_cross_entropy:
        return []
    # Mixup's labels come smoothed already.
    smoothing = losses.label_smoothing if losses.one_hot else 0.0
    return [GuessingLoss(num_classes, smoothing, losses.loss_weight)]
