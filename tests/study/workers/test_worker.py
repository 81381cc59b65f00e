"""A budget is planned with the durations of the trials that have finished."""

from __future__ import annotations

import math

from bhsearch.engines.base import Trial
from bhsearch.states import COMPLETE, FAILED, PRUNED, RUNNING
from bhsearch.study.workers.worker import exceeds_budget, seconds_left


def trials(*seconds: float, state: str = COMPLETE) -> list[Trial]:
    return [Trial(number, state, {}, 0.5, {"seconds": each}) for number, each in enumerate(seconds)]


def test_without_a_budget_there_is_no_end():
    assert seconds_left(trials(10.0, 20.0), math.inf) == math.inf
    assert not exceeds_budget(trials(1e9), math.inf)


def test_the_first_trial_always_runs():
    assert not exceeds_budget([], 1e-9)
    assert not exceeds_budget([Trial(0, RUNNING, {})], 1e-9)


def test_a_trial_starts_if_its_median_duration_still_fits():
    done = trials(1.0, 2.0, 30.0)
    assert not exceeds_budget(done, 35.0)
    assert exceeds_budget(done, 34.9)


def test_pruned_trials_count_and_failed_ones_do_not():
    assert seconds_left(trials(4.0, state=PRUNED), 10.0) == 6.0
    assert seconds_left(trials(4.0, state=FAILED), 10.0) == 10.0


def test_running_trials_are_expected_to_take_the_median():
    assert seconds_left([*trials(1.0, 2.0, 3.0), Trial(3, RUNNING, {})], 10.0) == 2.0
