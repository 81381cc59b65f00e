"""Slope and intercept are those of a direct logistic regression by scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression

from bhsearch.evaluation.calibration import logit
from bhsearch.evaluation.supplementary.calibration_slope import (
    weighted_calibration_intercept,
    weighted_calibration_slope,
)
from tests.evaluation.simulated import simulate


def reference_slope(label, probability, weight):
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    return model.fit(logit(probability)[:, None], label, weight).coef_[0, 0]


def reference_intercept(label, probability, weight):
    x = logit(probability)

    def loss(a):
        z = a + x
        return weight @ (np.logaddexp(0, z) - label * z)

    return minimize_scalar(loss, bracket=(-1, 1), tol=1e-12).x


@pytest.mark.parametrize("seed", range(4))
def test_slope_and_intercept_are_those_of_a_direct_logistic_regression(seed):
    predictions = simulate(seed=seed)
    weight = np.random.default_rng(seed).integers(0, 3, (5, len(predictions))) * predictions.weight[0]
    label, probability = predictions.label, predictions.probability[0]
    slope = weighted_calibration_slope(label, probability, weight)
    intercept = weighted_calibration_intercept(label, probability, weight)
    for row in range(len(weight)):
        assert slope[row] == pytest.approx(reference_slope(label, probability, weight[row]), abs=1e-6)
        assert intercept[row] == pytest.approx(reference_intercept(label, probability, weight[row]), abs=1e-6)


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_the_slope_divides_by_the_factor_on_the_logits(scale):
    predictions = simulate()
    x, weight = logit(predictions.probability[0]), predictions.weight[0]
    scaled = 1 / (1 + np.exp(-scale * np.clip(x, -3, 3)))
    plain = 1 / (1 + np.exp(-np.clip(x, -3, 3)))
    found = [float(weighted_calibration_slope(predictions.label, values, weight)) for values in (plain, scaled)]
    assert found[1] == pytest.approx(found[0] / scale, rel=1e-6)


def test_extreme_probabilities_and_weights_converge():
    random = np.random.default_rng(0)
    label = (np.arange(400) % 2).astype(np.int8)
    probability = np.clip(np.where(random.random(400) < 0.93, label, 1 - label), 1e-7, 1 - 1e-7)
    weight = 10.0 ** random.uniform(-4, 1, 400)
    assert weighted_calibration_slope(label, probability, weight) == pytest.approx(
        reference_slope(label, probability, weight), abs=1e-6
    )


def test_separated_classes_have_no_slope_and_a_single_class_has_neither():
    probability = np.array([0.1, 0.2, 0.3, 0.4])
    label = np.array([0, 0, 1, 1], np.int8)
    weights = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0]])
    assert np.isnan(weighted_calibration_slope(label, probability, weights)).all()
    assert np.isfinite(weighted_calibration_intercept(label, probability, weights)).tolist() == [True, False]
    assert np.isnan(weighted_calibration_slope(label, np.full(4, 0.4), weights[:1])).all()
    mixed = np.array([0, 1, 0, 1], np.int8)
    assert np.isfinite(weighted_calibration_slope(mixed, probability, weights[0]))
