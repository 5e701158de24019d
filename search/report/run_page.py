"""The HTML page of a whole run: the design, what it says to held-out images, its cost, and how it came about."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any

from asvit_tf.dataloaders.imagefiles import duplicates
from asvit_tf.dataloaders.imagefiles.skipped import in_words
from asvit_tf.design import savings
from asvit_tf.design.retokenization import Schedule
from asvit_tf.serving.held_out import Predictions
from asvit_tf.tasks import baselines
from asvit_tf.training import verdicts
from search.report import costs, design_figure, figures, held_out, not_done, pages
from search.report.design_figure import Design


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


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is known of the trained network beside its accuracy.

    Attributes:
      design: It, as it answers.
      class_names: By label.
      held_out: Answers by the name of the split, "validation" and "test"; only those that there are.
      serving: Size and latency of the exports (see `costs.serving_parts`); None where they were not measured.
      seed: Of the run.
      space_size: Topologies that the search could have sampled; None where an earlier version did not keep it.
      quantizing: The command that exports the network with TFLite of 8 bits.
      lacking: Why any of these is missing, a text for each reason.
    """

    design: Design
    class_names: Sequence[str]
    held_out: Mapping[str, Predictions]
    serving: Mapping[str, Any] | None
    seed: int
    space_size: int | None
    quantizing: str
    lacking: Sequence[str] = ()


def render(
    *,
    source: str,
    result: Mapping[str, Any],
    search_trace: Sequence[Mapping[str, Any]],
    family: Sequence[Mapping[str, Any]],
    training: Training,
    evidence: Evidence,
) -> str:
    """The page, as HTML.

    Args:
      source: Name of the images, for the reader.
      result: What `pipeline.run` returns.
      search_trace: Rows of the search; none where the design was given.
      family: Members that growth found, likewise.
      training: Training of the grown network.
      evidence: About the trained network.
    """
    sections = {
        "Design": [
            pages.embedded(
                design_figure.draw(evidence.design),
                "The network from left to right. Thin lines cut an image into tokens, thick ones into the windows that "
                "attention stays within; squares behind are further blocks.",
            )
        ],
        **_held_out(result, evidence),
        **_serving(evidence),
        **_design_found(search_trace, family),
        "Training": [
            pages.embedded(
                figures.training_figure(training.blocks, training.evaluations, training.schedule),
                "Training; dotted lines are changes of stride and dilation. Naming the majority class always would be "
                f"right for {result['majority_share']:.2%} of the held-out images.",
            ),
            pages.phase_table(training.planned, savings.phase_times(training.blocks)),
        ],
        "Time": costs.seconds_parts(result["seconds"]),
        "What was not done": [
            pages.items(
                not_done.sentences(
                    *(result, evidence.seed, len(search_trace), evidence.space_size),
                    *(evidence.lacking, evidence.quantizing),
                )
            )
        ],
    }
    title = "As-ViT: searched, grown, trained" if search_trace else "As-ViT: trained further"
    return pages.sections_page(title, _summary(source, result, bool(search_trace)), sections)


def _summary(source: str, result: Mapping[str, Any], searched: bool) -> list[str]:
    """What a reader has to know first; `searched` is whether the design was found in this run."""
    verdict, failed = html.escape(baselines.in_words(result)), baselines.is_failure(result)
    return [
        *([f"<p><b>Nothing was learned, and nothing exported: {verdict}.</b></p>"] if failed else []),
        *([f"<p><b>Unknown: {verdict}.</b></p>"] if not failed and not result["learned"] else []),
        *(f"<p><b>Set back: {verdicts.Rollback(**row)}.</b></p>" for row in result["rollbacks"]),
        *([_ended_early(result["diverged"])] if result.get("diverged") else []),
        f"<p>Images: {html.escape(source)}. {_design(result, searched)}, {result['parameters']:,} parameters. "
        f"Accuracy on held-out images: <b>{result['accuracy']:.2%}</b>{_interval(result, 'accuracy')}; "
        f"the majority class's share of them is "
        f"{result['majority_share']:.2%}, the balanced accuracy {result['balanced_accuracy']:.2%}. "
        f"{_best(result)}{_test(result)}"
        + (f"Topologies that could not be scored: {result['failed_scores']}." if searched else "")
        + "</p>",
        f"<pre>{html.escape(in_words(result) or 'No image file was skipped.')}</pre>",
        _duplicates(result),
    ]


def _ended_early(what: str) -> str:
    """That a training was lost, and what the page is about nevertheless."""
    return f"<p><b>The training ended early: {html.escape(what)}. This is its best network of before.</b></p>"


def _design(result: Mapping[str, Any], searched: bool) -> str:
    """The beginning of the sentence about the network that was trained."""
    grown = f"<code>{result['grown']}</code>"
    if not searched:
        return f"Trained further, with the topology of the network that it started from: {grown}"
    return f"Found by search: <code>{result['topology']}</code>. Grown and trained: {grown}"


def _held_out(result: Mapping[str, Any], evidence: Evidence) -> dict[str, list[str]]:
    """Sections about the splits that the network was asked about."""
    splits = {"validation": ("Held-out images", "accuracy"), "test": ("Test split", "test_accuracy")}
    return {
        title: held_out.parts(evidence.held_out[split], evidence.class_names, result[accuracy])
        for split, (title, accuracy) in splits.items()
        if split in evidence.held_out and result.get(accuracy) is not None
    }


def _design_found(
    search_trace: Sequence[Mapping[str, Any]], family: Sequence[Mapping[str, Any]]
) -> dict[str, list[str]]:
    """How the design came about; nothing where it was given."""
    found: dict[str, list[str]] = {}
    if search_trace:
        caption = "REINFORCE over training-free measures; no candidate is trained."
        found["Search"] = [pages.embedded(figures.search_figure(search_trace), caption)]
    if family:
        caption = "Depth and width of the family, from the seed to the trained member."
        found["Growth"] = [pages.embedded(figures.growth_figure(family), caption), pages.family_table(family)]
    return found


def _serving(evidence: Evidence) -> dict[str, list[str]]:
    """The section about the exported models, if there are any."""
    if evidence.serving is None:
        return {}
    count = evidence.design.count
    return {"Size and latency": costs.serving_parts(evidence.serving, count.parameters, count.macs)}


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
