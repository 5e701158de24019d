"""Sentences of the report that depend on what a run found."""

import pytest

from search.report import run_page

COPIES = dict(
    images=dict(train=8, validation=4),
    validation_in_train=1,
    repeated=dict(train=0, validation=0),
    conflicting=0,
    names=dict(validation_in_train=[["cat/<b>.png", "dog/1.png"]], repeated=[], conflicting=[]),
)


def test_copies():
    said = run_page._duplicates(dict(duplicates=COPIES))
    assert "training images, too: 1 of 4; the accuracy on validation is too high by up to 25.0 percentage" in said
    assert "cat/&lt;b&gt;.png is the same as dog/1.png" in said
    assert "more than once" in run_page._duplicates(dict(duplicates={**COPIES, "validation_in_train": 0}))


@pytest.mark.parametrize("result", [{}, dict(duplicates=None, best_step=None)])
def test_nothing_is_said_of_what_earlier_versions_did_not_do(result):
    assert run_page._duplicates(result) == run_page._best(result) == ""


def test_a_design_that_was_given_is_not_called_found():
    result = dict(topology="8,2,3|4,1,2|4,1,4|4,1,6|32", grown="8,2,3,2|4,1,2|4,1,4|4,1,6|32")
    assert run_page._design(result, True) == (
        f"Found by search: <code>{result['topology']}</code>. Grown and trained: <code>{result['grown']}</code>"
    )
    kept = "Trained further, with the topology of the network that it started from"
    assert run_page._design(result, False) == f"{kept}: <code>{result['grown']}</code>"


def test_a_training_that_was_lost_is_said_first():
    result = dict(accuracy=0.9, balanced_accuracy=0.9, majority_share=0.5, learned=True, rollbacks=[], skipped_images=0)
    result |= dict(topology="a", grown="b", parameters=1, failed_scores=0)
    first = run_page._summary("images", {**result, "diverged": "the loss is not a number at step <30>"}, True)[0]
    assert "ended early: the loss is not a number at step &lt;30&gt;. This is its best network of before" in first
    assert "ended early" not in "".join(run_page._summary("images", {**result, "diverged": None}, True))
    assert "ended early" not in "".join(run_page._summary("images", result, True))


def test_the_best_network_and_what_choosing_it_does():
    said = run_page._best(dict(best_step=440, test_accuracy=None))
    assert said.startswith(
        "The network is that of step 440, the best of all evaluations on these images; chosen by them"
    )
    assert "there is no test split" in said
    assert "test split" not in run_page._best(dict(best_step=440, test_accuracy=0.9))
