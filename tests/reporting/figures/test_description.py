"""Figures as data, and that both renderers draw every mark."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from matplotlib.collections import CircleCollection, FillBetweenPolyCollection

from bhsearch.evaluation.bootstrap import group_draws
from bhsearch.evaluation.curves import roc_band
from bhsearch.evaluation.metrics import calibration_bins
from bhsearch.reporting import report_figures
from bhsearch.reporting.figures import description, palette
from bhsearch.reporting.figures.marks import Area, Bar, Cross, Dot, Label, Line, nice_ticks
from bhsearch.reporting.report_numbers import calibration_points, pooled_points
from bhsearch.reporting.svg.frame import inline_chart
from bhsearch.states import PRUNED
from tests.evaluation.simulated import simulate
from tests.reporting.reports import make_report, row

PREDICTIONS = simulate()


def marks(figure, kind):
    return [mark for mark in figure.marks if isinstance(mark, kind)]


def test_the_roc_curve_starts_at_the_origin_and_has_a_band_only_from_draws():
    band = roc_band(PREDICTIONS, group_draws(PREDICTIONS.group, PREDICTIONS.stratum, 20))
    figure = description.roc(band)
    guessing, curve = marks(figure, Line)
    assert (guessing.x, guessing.y, guessing.dash) == ([0, 1], [0, 1], "dashed")
    assert (curve.x[0], curve.y[0]) == (0.0, 0.0)
    assert curve.y[1:] == band.mean.tolist()
    (area,) = marks(figure, Area)
    assert area.high[1:] == band.high.tolist()
    assert marks(description.roc(roc_band(PREDICTIONS)), Area) == []


def test_a_calibration_point_without_an_interval_is_hollow():
    points = calibration_points(PREDICTIONS)
    points.low[0] = points.high[0] = math.nan
    figure = description.calibration(points)
    assert [dot.hollow for dot in marks(figure, Dot)] == [True] + [False] * (len(points.low) - 1)
    assert len(marks(figure, Line)) == len(points.low)  # one interval fewer, and the diagonal
    largest = marks(figure, Dot)[int(np.argmax(points.mass))]
    assert largest.radius == max(dot.radius for dot in marks(figure, Dot))


def test_history_has_a_dot_per_score_a_cross_per_failure_and_the_best_so_far():
    figure = description.history([row(0, 0.6), row(1, None), row(2, 0.8), row(3, 0.7)])
    *dots, best = marks(figure, Dot)
    assert [(dot.x, dot.y) for dot in dots] == [(0, 0.6), (2, 0.8), (3, 0.7)]
    assert (best.x, best.y, best.colour) == (2, 0.8, palette.ORANGE)
    assert [cross.x for cross in marks(figure, Cross)] == [1]
    _, so_far = marks(figure, Line)
    assert so_far.x == [0, 1, 1, 2, 2, 3, 3]
    assert so_far.y == [0.6, 0.6, 0.6, 0.6, 0.8, 0.8, 0.8]  # steps: the best holds until a better trial
    assert [label.text for label in marks(figure, Label)] == ["trial 2: 0.800"]


def test_cost_marks_the_proposed_trial():
    rows = [
        row(0, 0.8, milliseconds=9.0, tied=True),
        row(1, 0.79, milliseconds=2.0, tied=True, proposed=True),
        row(2, 0.6, milliseconds=1.0, tied=False),
        row(3, 0.7, milliseconds=math.nan),
    ]
    figure = description.cost(rows)
    assert figure.x.log
    assert sorted(dot.x for dot in marks(figure, Dot)[:-1]) == [1.0, 2.0, 9.0]
    assert marks(figure, Dot)[-1].x == 2.0
    assert [label.text for label in marks(figure, Label)] == ["proposed: trial 1"]


def test_a_pruned_trial_with_a_score_is_hollow_and_never_the_best():
    figure = description.history([row(0, 0.6), row(1, 0.9, state=PRUNED)])
    complete, pruned, best = marks(figure, Dot)
    assert (pruned.x, pruned.hollow, pruned.name) == (1, True, "pruned")
    assert (complete.hollow, best.y) == (False, 0.6)


def test_calibration_curves_are_named_and_leave_out_empty_bins():
    mass, mean = np.array([[0.4, 0.0, 0.6]]), np.array([[0.1, np.nan, 0.9]])
    points = pooled_points(mass, mean, np.array([[0.2, np.nan, 0.8]]))
    figure = description.calibration_curves([(points, palette.GREY, "before"), (points, palette.BLUE, "after")])
    _, before, after = marks(figure, Line)
    assert [before.name, after.name] == ["before", "after"]
    assert (after.x, after.y) == (pytest.approx([0.1, 0.9]), pytest.approx([0.2, 0.8]))
    assert len(marks(figure, Dot)) == 4
    bars = marks(description.calibration_weights(mass[0]), Bar)
    assert [bar.height for bar in bars] == [0.4, 0.0, 0.6]
    assert all(bar.left >= k / 3 and bar.left + bar.width <= (k + 1) / 3 for k, bar in enumerate(bars))


def test_points_pooled_over_repeats_are_those_with_intervals():
    simulated = simulate(n_repeats=3)
    pooled, known = pooled_points(*calibration_bins(simulated)), calibration_points(simulated)
    for name in ("predicted", "observed", "mass"):
        np.testing.assert_allclose(getattr(pooled, name), getattr(known, name))


@pytest.mark.parametrize(("low", "high"), [(0.43, 1.0), (0.0, 0.9), (17.0, 61.0), (0.5, 0.5)])
def test_an_axis_has_enough_round_ticks(low, high):
    assert 3 <= len(nice_ticks(low, high)) <= 6 or low == high


@pytest.mark.parametrize("name", ["history", "cost", "roc", "calibration", "weights"])
def test_both_renderers_draw_every_mark(name):
    report = make_report()
    figure = {
        "history": lambda: description.history(report.rows),
        "cost": lambda: description.cost(report.rows),
        "roc": lambda: description.roc(roc_band(PREDICTIONS, group_draws(PREDICTIONS.group, PREDICTIONS.stratum, 20))),
        "calibration": lambda: description.calibration(calibration_points(PREDICTIONS)),
        "weights": lambda: description.calibration_weights(calibration_bins(PREDICTIONS)[0][0]),
    }[name]()
    chart = inline_chart(figure, "words")
    (axes,) = report_figures.to_matplotlib(figure).axes
    assert chart.count("<circle") == len(marks(figure, Dot))
    assert chart.count("<polyline") == len(marks(figure, Line))
    assert chart.count("<polygon") == len(marks(figure, Area))
    assert chart.count("<path") == len(marks(figure, Cross))
    assert 'aria-label="words"' in chart
    assert chart.count("<rect") == len(marks(figure, Bar))
    circles = [item for item in axes.collections if isinstance(item, CircleCollection)]
    areas = [item for item in axes.collections if isinstance(item, FillBetweenPolyCollection)]
    bars = [item for item in axes.collections if item not in [*circles, *areas]]
    assert sum(len(item.get_offsets()) for item in circles) == len(marks(figure, Dot))
    assert sum(len(item.get_paths()) for item in bars) == len(marks(figure, Bar))
    assert len(areas) == len(marks(figure, Area))
    assert len(axes.lines) == len(marks(figure, Line)) + len(marks(figure, Cross))
    assert [text.get_text() for text in axes.texts] == [label.text for label in marks(figure, Label)]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (figure.x.name, figure.y.name)
    assert axes.get_xlim() == pytest.approx((figure.x.low, figure.x.high))
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == [label for _, label in figure.x.labelled()]
    assert all(re.search(rf">{re.escape(value)}</text>", chart) for value in shown)
