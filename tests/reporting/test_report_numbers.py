from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bhsearch.evaluation import held_out_test, metrics
from bhsearch.evaluation.thresholds import cross_fitted_labels
from bhsearch.reporting import report_numbers
from tests.evaluation.simulated import simulate
from tests.tasks.samples import BINARY


@pytest.mark.parametrize("n_repeats", [1, 3])
def test_values_are_those_of_the_trial_and_lie_in_their_intervals(n_repeats):
    predictions = simulate(n_repeats=n_repeats)
    decisions = cross_fitted_labels(predictions, BINARY)
    found = report_numbers.measured(predictions, decisions, BINARY)
    values = metrics.trial_metrics(predictions, BINARY, decisions)
    assert list(found) == list(metrics.METRICS)
    for name, pair in found.items():
        assert pair.value == values[name]
        assert pair.low < pair.high
        assert pair.low - 0.02 < pair.value < pair.high + 0.02  # the calibration error of a draw is larger by nature


def test_on_a_single_fold_intervals_are_those_of_the_sealed_test():
    """Two ways to the same numbers: this one takes folds and repeats, the sealed test has one of each."""
    predictions = simulate(n_folds=1)
    threshold = 0.5
    tested = held_out_test.evaluate_test(predictions, predictions.probability[0], threshold, BINARY)
    found = report_numbers.measured(predictions, tested.decisions, BINARY)
    for name, pair in found.items():
        assert (pair.low, pair.high) == pytest.approx(tuple(tested.intervals[name]), abs=1e-9), name


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    # By hand from Wilson's formula, as in statsmodels' proportion_confint(method="wilson").
    [(0.5, 10, 0.2366, 0.7634), (1.0, 3, 0.4385, 1.0), (0.0, 8, 0.0, 0.3244), (0.9, 50, 0.7864, 0.9565)],
)
def test_the_interval_of_a_share_is_wilsons(share, n, low, high):
    found = report_numbers.share_of(share, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_no_interval_has_no_width():
    """All cases right: resampling them gives the same share every time, which is no certainty."""
    perfect = simulate()
    perfect = replace(perfect, probability=np.where(perfect.label == 1, 0.9, 0.1)[None])
    found = report_numbers.measured(perfect, cross_fitted_labels(perfect, BINARY), BINARY)
    assert found["sensitivity"].value == 1.0
    assert found["sensitivity"].low == report_numbers.share_of(1.0, 16).low  # 16 of the 26 cases are malignant
    assert found["specificity"].low == report_numbers.share_of(1.0, 10).low
    assert math.isnan(found["balanced_accuracy"].low)
    assert (found["auc"].low, found["auc"].high) == pytest.approx((1.0, 1.0))  # the gate decides on this one


def test_a_class_of_one_case_gives_no_interval_of_the_auc():
    """Every resample contains the only benign case once, and the only malignant case once."""
    some = simulate()
    cases = [some.group[some.label == label][0] for label in (0, 1)]
    few = some.select(np.isin(some.group, cases))
    for name in ("auc", "specificity", "sensitivity", "brier"):
        found = report_numbers.widened({name: report_numbers.Measured(0.75, 0.6, 0.9)}, few)[name]
        assert (found.value, math.isnan(found.low), math.isnan(found.high)) == (0.75, True, True)
        assert report_numbers.widened({name: report_numbers.Measured(0.75, 0.6, 0.9)}, some)[name].low == 0.6
    none = (math.nan, math.nan)
    assert report_numbers.text_with_ends(0.75, none, "auc", few) == "0.750 (no interval: only one benign case)"
    assert (
        report_numbers.text_with_ends(0.75, none, "sensitivity", few) == "0.750 (no interval: only one malignant case)"
    )
    assert report_numbers.text_with_ends(0.75, none, "brier", some) == "0.750 (no interval: too few cases)"
    assert report_numbers.text_with_ends(0.75, (0.6, 0.9), "auc", some) == "0.750 [0.600 0.900]"
    some_benign = some.select((some.label == 0) | (some.group == cases[1]))  # the benign cases still vary
    assert report_numbers.widened({"specificity": report_numbers.Measured(0.75, 0.6, 0.9)}, some_benign)[
        "specificity"
    ] == report_numbers.Measured(0.75, 0.6, 0.9)


def test_calibration_points_are_the_bins_of_the_calibration_error():
    predictions = simulate()
    points = report_numbers.calibration_points(predictions)
    mass, mean, share = (values[0] for values in metrics.calibration_bins(predictions))
    filled = mass > 0
    assert points.mass == pytest.approx(mass[filled])
    assert points.predicted == pytest.approx(mean[filled])
    assert points.observed == pytest.approx(share[filled])
    assert ((points.low <= points.observed) & (points.observed <= points.high)).all()


def test_a_bin_of_one_case_has_no_interval():
    predictions = simulate(largest=1)
    alone = predictions.probability.copy()
    alone[0] = np.where(np.arange(len(predictions)) == 0, 0.999, 0.35)
    points = report_numbers.calibration_points(replace(predictions, probability=alone))
    assert np.isfinite(points.low).tolist() == [True, False]


def test_auc_of_a_part_is_its_own():
    predictions = simulate()
    part = predictions.select(predictions.magnification == "40X")
    found = report_numbers.auc_of(part)
    assert found is not None
    assert found.value == pytest.approx(np.nanmean(metrics.fold_scores(part)))
    assert found.low < found.value < found.high
    assert report_numbers.auc_of(predictions.select(predictions.label == 1)) is None
