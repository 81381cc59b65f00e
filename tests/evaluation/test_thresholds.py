"""Thresholds: the best cut, ties decided the same way every time, and nothing learnt from the own fold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import classification_report, recall_score

from bhsearch.evaluation import thresholds
from bhsearch.evaluation.thresholds import (
    best_threshold,
    classification_text,
    cross_fitted_labels,
    threshold_at_sensitivity,
    threshold_at_specificity,
)
from tests.evaluation.simulated import simulate
from tests.tasks.samples import BINARY


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20), st.integers(1, 5)), min_size=1, max_size=25))
@settings(deadline=None)
def test_no_other_cut_is_better(drawn: list[tuple[int, int, int]]) -> None:
    rows = [*drawn, (0, 3, 1), (1, 4, 1)]
    label, place, weight = (np.array(column) for column in zip(*rows, strict=True))
    probability, weight = place / 20, weight.astype(float)

    def balanced(cut: float) -> float:
        right = (probability >= cut) == label
        return sum(np.average(right[label == value], weights=weight[label == value]) for value in (0, 1)) / 2

    best = balanced(best_threshold(label, probability, weight))
    assert best >= max(balanced(cut) for cut in np.arange(-1, 42) / 40) - 1e-9


def test_of_equally_good_cuts_the_one_nearest_to_a_half_is_taken() -> None:
    label, probability = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.6, 0.8])
    # Cuts at 0.15 and 0.7 are both right three times in four, each class weighed.
    assert best_threshold(label, probability, np.ones(4)) == pytest.approx(0.7)


def test_a_cut_between_neighbouring_floats_keeps_them_apart() -> None:
    low = 0.3
    high = float(np.nextafter(low, 1))
    cut = best_threshold(np.array([0, 1]), np.array([low, high]), np.ones(2))
    assert low < cut <= high


def test_one_class_gives_a_half() -> None:
    assert best_threshold(np.array([1, 1]), np.array([0.2, 0.3]), np.ones(2)) == 0.5
    assert best_threshold(np.array([], dtype=int), np.array([]), np.array([])) == 0.5


def test_a_folds_threshold_ignores_that_fold() -> None:
    base = simulate(20, n_repeats=2)
    inside = base.fold[0] == 2
    probability, label = base.probability.copy(), base.label.copy()
    probability[0, inside] = np.random.default_rng(0).random(inside.sum())
    label[inside] = 1 - label[inside]
    before = cross_fitted_labels(base, BINARY).threshold
    changed = cross_fitted_labels(dataclasses.replace(base, probability=probability, label=label), BINARY).threshold
    assert before[0, 2] == changed[0, 2]
    assert (before[0] != changed[0]).any()


def test_decisions_follow_the_thresholds() -> None:
    base = simulate(20, n_repeats=2)
    decisions = cross_fitted_labels(base, BINARY)
    cut = np.take_along_axis(decisions.threshold, base.fold.astype(int), axis=1)
    assert np.array_equal(decisions.predicted, base.probability >= cut)


def test_the_report_counts_cases_and_says_what_it_is() -> None:
    text = classification_text(simulate(20, n_repeats=3), BINARY, "synthetic data (phantom)")
    assert text.startswith("synthetic data (phantom)\n")
    benign = next(line for line in text.splitlines() if "benign" in line)
    assert benign.split()[-1] == "8.0"
    assert max(map(len, text.splitlines()[4:])) < 60


@pytest.mark.parametrize("predicted", ["by the rule", "all malignant"])
def test_the_report_is_that_of_scikit_learn(predicted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = simulate(20, n_repeats=3)
    decisions = cross_fitted_labels(base, BINARY)
    if predicted == "all malignant":
        decisions = dataclasses.replace(decisions, predicted=np.ones_like(decisions.predicted))
        monkeypatch.setattr(thresholds, "cross_fitted_labels", lambda *_: decisions)
    reference = classification_report(
        np.tile(base.label, 3),
        decisions.predicted.ravel(),
        target_names=BINARY.class_names,
        sample_weight=base.weight.ravel() / 3,
        digits=3,
        zero_division=0.0,
    )
    found = classification_text(base, BINARY).partition("\n\n")[2]

    def cells(text: str) -> list[list[str]]:
        return [
            line.split()[:-1] if line and not line.endswith("support") else line.split() for line in text.splitlines()
        ]

    assert cells(found) == cells(reference)
    supports = [[float(line.split()[-1]) for line in text.splitlines()[2:] if line] for text in (found, reference)]
    assert supports[0] == pytest.approx(supports[1], abs=0.05)
    assert all(len(line) == len(found.splitlines()[0]) for line in found.splitlines() if line)


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_at_fixed_rates_are_the_extreme_ones_that_reach_the_rate(seed):
    """The reference tries every threshold."""
    predictions = simulate(seed=seed, largest=20)
    label, probability, weight = predictions.label, predictions.probability[0], predictions.weight[0]
    every, rate = np.append(np.unique(probability), 2.0), 0.95 - 1e-12  # one sample has exactly 0.95, but for rounding
    sensitive = [t for t in every if recall_score(label, probability >= t, sample_weight=weight) >= rate]
    specific = [t for t in every if recall_score(label, probability >= t, sample_weight=weight, pos_label=0) >= rate]
    assert threshold_at_sensitivity(label, probability, weight) == max(sensitive)
    found = probability >= threshold_at_specificity(label, probability, weight)
    np.testing.assert_array_equal(found, probability >= min(specific))


def test_thresholds_at_fixed_rates_keep_ties_together():
    label, probability = np.array([0, 1, 0, 1], np.int8), np.full(4, 0.5)
    assert threshold_at_sensitivity(label, probability, np.ones(4)) == 0.5
    assert threshold_at_specificity(label, probability, np.ones(4)) > 0.5
