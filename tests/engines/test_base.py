"""What a trial is, and which leave no trace in what comes next."""

from __future__ import annotations

import pytest

from bhsearch import states
from bhsearch.engines.base import INTERRUPTED, MOST_RETRIES, Trial, is_ignored_on_resume


@pytest.mark.parametrize(
    ("state", "counts"),
    [(states.COMPLETE, True), (states.PRUNED, True), (states.FAILED, False), (states.RUNNING, False)],
)
def test_only_finished_trials_count(state, counts):
    assert Trial(0, state, {}).counts is counts


@pytest.mark.parametrize(
    ("notes", "without_trace"),
    [
        ({"reason": "it diverged"}, False),
        ({"reason": INTERRUPTED}, True),
        ({"reason": "its process died", "dead": True}, True),
        ({"reason": "its process died", "dead": True, "attempt": MOST_RETRIES}, False),
    ],
)
def test_what_is_run_again_leaves_no_trace(notes, without_trace):
    """The last attempt does, or the same point would come for ever."""
    assert is_ignored_on_resume(Trial(0, states.FAILED, {"backbone": "a"}, notes=notes)) is without_trace


def test_a_last_attempt_that_died_before_it_had_its_point_leaves_no_trace():
    notes = {"reason": "its process died", "dead": True, "attempt": MOST_RETRIES}
    assert is_ignored_on_resume(Trial(0, states.FAILED, {}, notes=notes))
