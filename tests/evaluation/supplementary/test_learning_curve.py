from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from bhsearch.evaluation.supplementary.learning_curve import FALLS, FLAT, GROWS, LearningCurve, learning_curve
from tests.evaluation.simulated import simulate
from tests.tasks.samples import BINARY

SIZES = (20.0, 28.0, 40.0, 56.0, 80.0)


def families_of(auc, n_families=4, n_cases=100, seed=0):
    """Normal scores of two classes whose AUC is a function of the size, on the same validation cases throughout."""
    base = simulate(n_cases=n_cases, largest=3, seed=seed)
    random = np.random.default_rng(seed)

    def predictions(size):
        distance = np.sqrt(2) * norm.ppf(auc(size))
        score = distance * base.label + random.normal(size=(1, len(base)))
        return replace(base, probability=1 / (1 + np.exp(-score)))

    return [[predictions(size) for size in SIZES] for _ in range(n_families)]


def growing(size):
    return 0.9 - 0.1 * (size / 80) ** -0.7


def curve_of(families):
    return learning_curve(families, [SIZES] * len(families), BINARY)


def mean_auc(predictions):
    """Case-weighted AUC by scikit-learn, mean over folds."""
    scores = []
    for fold in range(5):
        rows = predictions.fold[0] == fold
        weight = predictions.weight[0, rows]
        scores.append(roc_auc_score(predictions.label[rows], predictions.probability[0, rows], sample_weight=weight))
    return np.mean(scores)


def test_points_are_the_mean_over_subsets_of_the_score_of_the_trial():
    families = families_of(growing)
    found = curve_of(families)
    for place in range(len(SIZES)):
        assert found.scores[place] == pytest.approx(np.mean([mean_auc(family[place]) for family in families]))
    assert found.sizes == pytest.approx(SIZES)
    assert (found.n_subsets, found.n_cases) == (4, 100)
    assert all(low < score < high for low, score, high in zip(found.low, found.scores, found.high, strict=True))


def test_a_growing_curve_promises_a_gain_with_an_interval():
    found = curve_of(families_of(growing))
    assert found.verdict == GROWS
    assert 0 < found.gain_low < found.gain < found.gain_high
    assert found.grid[-1] == pytest.approx(160)
    assert found.predicted[0] == pytest.approx(found.fitted[-1])
    said = found.sentence()
    assert "As many cases again (200 instead of 100)" in said
    assert f"{found.predicted[0]:.3f}" in said
    assert f"{found.gain:+.3f} [{found.gain_low:+.3f} {found.gain_high:+.3f}]" in said


def test_a_flat_curve_says_that_it_shows_nothing():
    found = curve_of(families_of(lambda size: 0.8))
    assert found.verdict == FLAT
    assert found.gain_low <= 0 <= found.gain_high
    assert "does not show that more cases would help" in found.sentence()


def test_a_falling_curve_is_not_extrapolated():
    found = curve_of(families_of(lambda size: 0.9 - size / 300))
    assert found.verdict == FALLS
    assert "says nothing" in found.sentence()


def test_the_same_predictions_give_the_same_curve_and_a_record_restores_it():
    families = families_of(growing)
    found = curve_of(families)
    assert found == curve_of(families)
    assert LearningCurve.from_record(json.loads(json.dumps(found.to_record()))) == found


def test_the_interval_of_the_gain_covers_the_truth():
    """The 95 % interval may miss the gain of the true curve in a few of 20 samples of cases."""
    truth = growing(160) - growing(80)
    curves = [curve_of(families_of(growing, seed=seed)) for seed in range(20)]
    assert np.mean([curve.gain_low <= truth <= curve.gain_high for curve in curves]) >= 0.85
