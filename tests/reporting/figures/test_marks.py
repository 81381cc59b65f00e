"""Axes and their ticks, compared with Matplotlib's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.ticker import MaxNLocator

from bhsearch.reporting.figures.marks import Axis, nice_ticks, tick_labels, whole_ticks

ENDS = st.tuples(st.floats(-1e6, 1e6), st.floats(1e-9, 1e6)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0.41, 0.7, False, [0.5, 0.6, 0.7]),
        (0, 100, False, [0, 25, 50, 75, 100]),
        (0.0, 1.0, False, [0, 0.25, 0.5, 0.75, 1.0]),
        (2.0, 30.0, True, [2.0, 5.0, 10.0, 20.0]),
        (0.05, 7.0, True, [0.1, 0.3, 1.0, 3.0]),
        (1e-4, 1e-2, True, [1e-4, 1e-3, 1e-2]),
        (0.01, 5e9, True, [0.01, 1.0, 1e2, 1e4, 1e6, 1e8]),
        (1e-12, 4e-12, False, [1e-12, 2e-12, 3e-12, 4e-12]),
    ],
)
def test_ticks_are_round_and_inside(low, high, log, expected):
    assert nice_ticks(low, high, log) == pytest.approx(expected, rel=1e-9, abs=0)


@given(ENDS)
def test_ticks_are_those_of_matplotlib_for_their_step(ends):
    """Matplotlib's locator, restricted to the same step, finds the same multiples."""
    low, high = ends
    if (high - low) < 1e-6 * max(abs(low), abs(high)):
        return  # more digits than a label has
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    step = ticks[1] - ticks[0]
    decade = 10.0 ** math.floor(math.log10(step) + 1e-9)
    locator = MaxNLocator(
        nbins=len(ticks) + 1, steps=[1, round(step / decade, 3), 10] if step / decade > 1.01 else [1, 10]
    )
    theirs = [value for value in locator.tick_values(low, high) if low - 1e-9 * step <= value <= high + 1e-9 * step]
    assert round(step / decade, 3) in (1, 2, 2.5, 5)
    assert set(np.round(np.divide(ticks, step)).astype(int)) >= set(np.round(np.divide(theirs, step)).astype(int))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 4), (1, 15), (0, 49), (1, 30), (0, 4999), (1, 1)])
def test_whole_ticks_are_few_evenly_spaced_whole_numbers(low, high):
    ticks = whole_ticks(low, high)
    assert 1 <= len(ticks) <= 6
    assert all(low <= tick <= high and tick == int(tick) for tick in ticks)
    assert len(set(np.diff(ticks))) <= 1


def test_labels_of_an_axis_have_the_same_decimals_and_a_true_minus():
    assert tick_labels([0.7, 0.75, 0.8]) == ["0.70", "0.75", "0.80"]
    assert tick_labels([-2.0, 0.0, 2.0]) == ["\u22122", "0", "2"]
    assert tick_labels([0.1, 1.0, 10.0], log=True) == ["0.1", "1", "10"]
    assert tick_labels([1e-12, 2e-12]) == ["1e\u221212", "2e\u221212"]


def test_an_axis_of_one_value_puts_it_in_the_middle():
    assert Axis("a", 3.0, 3.0).share(3.0) == 0.5


def test_a_logarithmic_axis_has_equal_steps_for_equal_factors():
    assert Axis("a", 0.01, 1.0, log=True).share(0.1) == pytest.approx(0.5)


def test_a_reversed_axis_has_the_same_ticks():
    assert Axis("a", 4.0, -4.0).marks() == Axis("a", -4.0, 4.0).marks()
    assert Axis("a", 4.0, -4.0).share(2.0) == 0.25


def test_ticks_outside_the_range_lose_their_labels_too():
    axis = Axis("a", 0.5, 2.5, ticks=[0, 1, 2, 3], labels=["a", "b", "c", "d"])
    assert axis.labelled() == [(1, "b"), (2, "c")]
