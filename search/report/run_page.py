"""The HTML page of a whole run: search, growth, training."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any

from asvit_tf.dataloaders.imagefiles import duplicates
from asvit_tf.dataloaders.imagefiles.skipped import in_words
from asvit_tf.design import savings
from asvit_tf.design.retokenization import Schedule
from asvit_tf.tasks import baselines
from asvit_tf.training import verdicts
from search.report import figures, pages


@dataclasses.dataclass(frozen=True)
class Training:
    """What a training left behind.

    Attributes:
      schedule: Its re-tokenization schedule.
      planned: What each phase was to cost.
      blocks: Rows of its blocks of steps.
      evaluations: Step and accuracy on held-out images.
    """

    schedule: Schedule
    planned: Sequence[savings.PlannedPhase]
    blocks: Sequence[Mapping[str, Any]]
    evaluations: Sequence[tuple[int, float]]


def render(
    *,
    source: str,
    result: Mapping[str, Any],
    search_trace: Sequence[Mapping[str, Any]],
    family: Sequence[Mapping[str, Any]],
    training: Training,
) -> str:
    """The page, as HTML.

    Args:
      source: Name of the images, for the reader.
      result: What `pipeline.run` returns.
      search_trace: Rows of the search.
      family: Members that growth found.
      training: Training of the grown network.
    """
    verdict, failed = html.escape(baselines.in_words(result)), baselines.is_failure(result)
    parts = [
        *([f"<p><b>Nothing was learned, and nothing exported: {verdict}.</b></p>"] if failed else []),
        *([f"<p><b>Unknown: {verdict}.</b></p>"] if not failed and not result["learned"] else []),
        *(f"<p><b>Set back: {verdicts.Rollback(**row)}.</b></p>" for row in result["rollbacks"]),
        f"<p>Images: {html.escape(source)}. Found by search: <code>{result['topology']}</code>. "
        f"Grown and trained: <code>{result['grown']}</code>, {result['parameters']:,} parameters. "
        f"Accuracy on held-out images: <b>{result['accuracy']:.2%}</b>{_interval(result, 'accuracy')}; "
        f"the majority class's share of them is "
        f"{result['majority_share']:.2%}, the balanced accuracy {result['balanced_accuracy']:.2%}. "
        f"{_best(result)}{_test(result)}Topologies that could not be scored: {result['failed_scores']}.</p>",
        f"<pre>{html.escape(in_words(result) or 'No image file was skipped.')}</pre>",
        _duplicates(result),
        *_design(search_trace, family),
        "<h2>Training</h2>",
        pages.embedded(
            figures.training_figure(training.blocks, training.evaluations, training.schedule),
            "Training; dotted lines are changes of stride and dilation. Naming the majority class always would be "
            f"right for {result['majority_share']:.2%} of the held-out images.",
        ),
        pages.phase_table(training.planned, savings.phase_times(training.blocks)),
    ]
    return pages.page("As-ViT: searched, grown, trained", parts)


def _design(search_trace: Sequence[Mapping[str, Any]], family: Sequence[Mapping[str, Any]]) -> list[str]:
    """Search and growth; of a network that was trained before, its size."""
    if not search_trace:
        return [
            "<p>Nothing was searched: a network trained before was trained further.</p>",
            pages.family_table(family),
        ]
    return [
        "<h2>Search</h2>",
        pages.embedded(
            figures.search_figure(search_trace), "REINFORCE over training-free measures; no candidate is trained."
        ),
        "<h2>Growth</h2>",
        pages.embedded(
            figures.growth_figure(family), "Depth and width of the family, from the seed to the trained member."
        ),
        pages.family_table(family),
    ]


def _test(result: Mapping[str, Any]) -> str:
    """The sentence about the test split; "" without one."""
    if result.get("test_accuracy") is None:
        return ""
    return (
        f"Accuracy on the test split, evaluated once, at the end: <b>{result['test_accuracy']:.2%}</b>"
        f"{_interval(result, 'test_accuracy')}, balanced "
        f"{result['test_balanced_accuracy']:.2%}. "
    )


def _interval(result: Mapping[str, Any], name: str) -> str:
    """The 95 % interval of an accuracy, in brackets; results of earlier versions have none."""
    interval = result.get(f"{name}_interval")
    return f" (95 % interval {interval[0]:.2%} to {interval[1]:.2%})" if interval else ""


def _duplicates(result: Mapping[str, Any]) -> str:
    """What images that occur more than once do to the numbers; "" where nobody counted them."""
    counted = result.get("duplicates")
    words = duplicates.in_words(counted) or "No image is there more than once."
    return "" if counted is None else f"<pre>{html.escape(words)}</pre>"


def _best(result: Mapping[str, Any]) -> str:
    """The sentence about how the network was chosen; "" where it is the last, as in earlier versions."""
    if result.get("best_step") is None:
        return ""
    tested = result.get("test_accuracy") is not None
    return (
        f"The network is that of step {result['best_step']}, the best of all evaluations on these images; chosen by "
        f"them, it does a little better on them than on others{'' if tested else ', and there is no test split'}. "
    )
