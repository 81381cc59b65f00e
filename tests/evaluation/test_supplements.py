"""Supplementary statistics have a value with an interval, or a reason why they have none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bhsearch.evaluation.bootstrap import group_draws, interval
from bhsearch.evaluation.calibration_slope import weighted_calibration_slope
from bhsearch.evaluation.supplements import TITLES, reason_not_applicable, supplements
from tests.evaluation.simulated import simulate


def drawn(predictions, n_draws=200):
    return group_draws(predictions.group, predictions.stratum, n_draws)


def test_every_statistic_has_a_value_or_a_reason():
    predictions = simulate()
    for each in (predictions, replace(predictions, probability=predictions.label[None] * 0.5)):
        found = supplements(each, drawn(each))
        assert set(found.values) == set(found.intervals)
        assert set(found.values) | set(found.not_applicable) == set(TITLES)
        assert not set(found.values) & set(found.not_applicable)
        assert np.isfinite(list(found.values.values())).all()


def test_the_interval_of_the_slope_is_that_of_refits_to_drawn_cases():
    predictions = simulate(n_cases=40)
    draws = drawn(predictions)
    _, number = np.unique(predictions.group, return_inverse=True)
    refitted = [
        float(
            weighted_calibration_slope(
                predictions.label, predictions.probability[0], predictions.weight[0] * draw[number]
            )
        )
        for draw in draws
    ]
    found = supplements(predictions, draws).intervals["calibration_slope"]
    np.testing.assert_allclose(found, interval(np.array(refitted)), atol=1e-7)


def test_separated_classes_have_no_slope_with_the_reason():
    predictions = simulate()
    separated = replace(predictions, probability=(0.2 + 0.6 * predictions.label)[None])
    found = supplements(separated, drawn(separated))
    assert "separates the classes" in found.not_applicable["calibration_slope"]
    assert found.not_applicable["calibration_slope"] == reason_not_applicable("calibration_slope", separated)
    assert "calibration_intercept" in found.values
