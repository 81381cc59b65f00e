from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from bhsearch.evaluation.bootstrap import group_draws
from bhsearch.evaluation.supplementary.decision_curve import THRESHOLDS, decision_curve
from bhsearch.evaluation.supplementary.probability_histogram import N_BINS, probability_histogram
from tests.evaluation.simulated import simulate


@pytest.fixture
def predictions():
    return simulate(seed=3, n_repeats=2)


def test_net_benefit_is_that_of_the_confusion_matrix(predictions):
    found = decision_curve(predictions)
    for place in (4, 19, 49, 94):
        threshold = THRESHOLDS[place]
        expected = []
        for probability, weight in zip(predictions.probability, predictions.weight, strict=True):
            table = confusion_matrix(
                predictions.label, probability >= threshold, sample_weight=weight, normalize="all", labels=[0, 1]
            )
            expected.append(table[1, 1] - table[0, 1] * threshold / (1 - threshold))
        assert found.net_benefit[place] == pytest.approx(np.mean(expected))
    assert np.isnan(found.low).all()


def test_treating_all_gains_the_prevalence_less_its_false_positives(predictions):
    found = decision_curve(predictions)
    assert found.treat_all == pytest.approx(found.prevalence - (1 - found.prevalence) * THRESHOLDS / (1 - THRESHOLDS))
    # The net benefit of treating all is 0 where the threshold is the prevalence.
    assert np.interp(found.prevalence, THRESHOLDS, found.treat_all) == pytest.approx(0, abs=5e-3)


def test_the_band_contains_the_curve_and_comes_from_the_draws(predictions):
    draws = group_draws(predictions.group, predictions.stratum, 200)
    found = decision_curve(predictions, draws)
    assert (found.low <= found.net_benefit + 1e-12).mean() > 0.95
    assert (found.net_benefit <= found.high + 1e-12).mean() > 0.95
    once = np.ones_like(draws[:5])
    same = decision_curve(predictions, once)
    assert same.low == pytest.approx(found.net_benefit)
    assert same.high == pytest.approx(found.net_benefit)


def test_histograms_are_those_of_each_class_with_equal_cases(predictions):
    found = probability_histogram(predictions)
    assert found.shape == (2, N_BINS)
    assert found.sum(axis=1) == pytest.approx([1, 1])
    for row in range(2):
        rows = predictions.label == row
        lowest = predictions.probability[:, rows] < 0.5
        share = predictions.weight[:, rows][lowest].sum() / predictions.weight[:, rows].sum()
        assert found[row, : N_BINS // 2].sum() == pytest.approx(share)
