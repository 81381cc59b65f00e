"""What more trials would bring."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bhsearch.study.stopping import FEWEST, expected_best, expected_gain

unit = st.floats(0.0, 1.0).map(lambda value: round(value, 6))
some_scores = st.lists(unit, min_size=FEWEST, max_size=60)


@given(st.lists(unit, min_size=1, max_size=7))
def test_the_mean_best_of_subsets_is_that_of_all_subsets(scores):
    for size in range(1, len(scores) + 1):
        every = [max(some) for some in itertools.combinations(scores, size)]
        assert expected_best(scores, [size])[0] == pytest.approx(np.mean(every))


@given(some_scores, st.integers(0, 500), st.integers(0, 500))
def test_a_gain_is_never_negative_and_grows_with_the_trials(scores, one, other):
    fewer, more = sorted((one, other))
    assert 0.0 <= expected_gain(scores, fewer) <= expected_gain(scores, more) + 1e-12


@given(some_scores)
def test_no_more_trials_bring_nothing(scores):
    assert expected_gain(scores, 0) == 0.0


@given(some_scores, st.integers(1, 200), st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
def test_a_gain_is_in_the_unit_of_the_scores(scores, more, factor, shift):
    moved = [factor * score + shift for score in scores]
    assert expected_gain(moved, more) == pytest.approx(factor * expected_gain(scores, more), abs=1e-6, rel=1e-3)


@given(some_scores)
def test_what_came_late_promises_more_than_what_came_early(scores):
    rising = expected_gain(sorted(scores), len(scores))
    assert rising >= expected_gain(sorted(scores, reverse=True), len(scores))
    assert rising >= (max(scores) - sorted(scores)[len(scores) // 2 - 1]) / 2 - 1e-12


@given(unit, st.integers(FEWEST, 40), st.integers(1, 200))
def test_trials_that_are_all_alike_promise_nothing(score, n_scores, more):
    assert expected_gain([score] * n_scores, more) == 0.0


def test_too_few_trials_say_nothing_and_less_than_no_trials_is_an_error():
    assert math.isnan(expected_gain([0.5] * (FEWEST - 1), 10))
    with pytest.raises(ValueError, match="-1"):
        expected_gain([0.5] * FEWEST, -1)


@pytest.mark.parametrize("draw", [lambda g, n: g.beta(5, 2, n), lambda g, n: g.normal(0.8, 0.05, n)])
def test_on_independent_draws_the_gain_is_right_on_average(draw):
    """With fifty trials done, over many studies: predicted against what fifty more then brought."""
    random = np.random.default_rng(0)
    studies = [draw(random, 100) for _ in range(400)]
    predicted = np.mean([expected_gain(list(study[:50]), 50) for study in studies])
    realised = np.mean([study.max() - study[:50].max() for study in studies])
    assert predicted == pytest.approx(realised, rel=0.35)
