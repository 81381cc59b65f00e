from __future__ import annotations

from dataclasses import replace

import pytest

from bhsearch.reporting.figures.description import DASHED, Area, Dot, Line
from bhsearch.reporting.figures.learning_curve import learning_curve
from tests.reporting.reports import CURVE

FALLING = replace(CURVE, gain=-0.02, gain_low=-0.03, gain_high=-0.01)


def of_kind(figure, kind):
    return [mark for mark in figure.marks if isinstance(mark, kind)]


def test_every_size_has_a_point_and_its_interval():
    figure = learning_curve(CURVE)
    dots = [dot for dot in of_kind(figure, Dot) if not dot.hollow]
    assert [(dot.x, dot.y) for dot in dots] == list(zip(CURVE.sizes, CURVE.scores, strict=True))
    upright = [line for line in of_kind(figure, Line) if line.x[0] == line.x[-1]]
    assert [tuple(line.y) for line in upright] == list(zip(CURVE.low, CURVE.high, strict=True))


def test_the_curve_is_dashed_beyond_the_largest_size_and_ends_at_twice_the_cases():
    figure = learning_curve(CURVE)
    (dashed,) = [line for line in of_kind(figure, Line) if line.dash == DASHED]
    assert (dashed.x[0], dashed.x[-1]) == (CURVE.sizes[-1], CURVE.grid[-1])
    (end,) = [dot for dot in of_kind(figure, Dot) if dot.hollow]
    assert (end.x, end.y) == (CURVE.grid[-1], CURVE.fitted[-1])
    (band,) = of_kind(figure, Area)
    assert (list(band.low), list(band.high)) == (CURVE.fitted_low, CURVE.fitted_high)


def test_a_falling_curve_ends_at_the_largest_size():
    figure = learning_curve(FALLING)
    assert not [line for line in of_kind(figure, Line) if line.dash]
    assert max(of_kind(figure, Area)[0].x) == CURVE.sizes[-1]
    assert not [dot for dot in of_kind(figure, Dot) if dot.hollow]


@pytest.mark.parametrize("curve", [CURVE, FALLING])
def test_everything_is_inside_the_axes(curve):
    figure = learning_curve(curve)
    for mark in of_kind(figure, Dot):
        assert figure.x.low <= mark.x <= figure.x.high
        assert figure.y.low <= mark.y <= figure.y.high
    assert len(figure.y.marks()) >= 2
    assert len(figure.x.marks()) == len(curve.sizes) + (curve is CURVE)
