"""Supplementary statistics have a value with an interval, or a reason why they have none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bhsearch.evaluation.bootstrap import group_draws, interval
from bhsearch.evaluation.supplementary.calibration_slope import weighted_calibration_slope
from bhsearch.evaluation.supplementary.supplements import TITLES, reason_not_applicable, supplements
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


def test_the_case_level_auc_is_that_of_mean_probabilities():
    predictions = simulate(n_repeats=2)
    groups = np.unique(predictions.group)
    expected = []
    for repeat, fold in np.ndindex(2, predictions.n_folds):
        inside = [g for g in groups if predictions.fold[repeat, predictions.group == g][0] == fold]
        label = [predictions.label[predictions.group == g][0] for g in inside]
        mean = [predictions.probability[repeat, predictions.group == g].mean() for g in inside]
        expected.append(roc_auc_score(label, mean))
    found = supplements(predictions, drawn(predictions))
    assert found.values["case_auc"] == pytest.approx(np.mean(expected))
    assert found.intervals["case_auc"].low < found.values["case_auc"] < found.intervals["case_auc"].high


def test_the_interval_of_the_case_level_auc_is_over_drawn_cases():
    predictions = simulate(n_folds=1, n_cases=40)
    draws = drawn(predictions)
    groups = np.unique(predictions.group)
    label = np.array([predictions.label[predictions.group == g][0] for g in groups])
    mean = np.array([predictions.probability[0, predictions.group == g].mean() for g in groups])
    samples = [roc_auc_score(label, mean, sample_weight=draw) for draw in draws]
    found = supplements(predictions, draws).intervals["case_auc"]
    np.testing.assert_allclose(found, interval(np.array(samples)), atol=1e-12)


def test_cases_with_both_classes_have_no_case_level_auc():
    predictions = simulate()
    label = predictions.label.copy()
    rows = np.flatnonzero(predictions.group == predictions.group[-1])
    label[rows[0]] = 1 - label[rows[1]]
    mixed = replace(predictions, label=label)
    found = supplements(mixed, drawn(mixed))
    assert found.not_applicable["case_auc"] == "1 of 26 cases have images of both classes"
    assert reason_not_applicable("case_auc", mixed) == found.not_applicable["case_auc"]


def test_cases_in_several_folds_have_no_case_level_auc():
    predictions = simulate()
    fold = np.arange(len(predictions))[None].astype(np.int8) % 5
    divided = replace(predictions, fold=fold)
    assert "several folds" in supplements(divided, drawn(divided)).not_applicable["case_auc"]
