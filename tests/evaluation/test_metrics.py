"""Metrics: against scikit-learn, against brute force, and what must not change them."""

from __future__ import annotations

import dataclasses
import posixpath
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from bhsearch.evaluation.metrics import (
    calibration_bins,
    epoch_scores,
    fold_scores,
    iter_folds,
    metric_names,
    score,
    trial_metrics,
    weighted_auc,
    weighted_average_precision,
)
from bhsearch.evaluation.thresholds import cross_fitted_labels
from tests.evaluation.simulated import reorder, simulate
from tests.tasks.samples import BINARY

rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 6), st.floats(0.0, 3.0, allow_subnormal=False)), min_size=2, max_size=30
)


def brute_auc(label: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> float:
    wins = pairs = 0.0
    for i in np.flatnonzero(label == 1):
        for j in np.flatnonzero(label == 0):
            pair = weight[i] * weight[j]
            pairs += pair
            wins += pair * ((probability[i] > probability[j]) + 0.5 * (probability[i] == probability[j]))
    return wins / pairs if pairs else np.nan


@given(rows)
def test_auc_counts_the_pairs_that_are_ranked_right(drawn: list[tuple[int, int, float]]) -> None:
    label, probability, weight = (np.array(column) for column in zip(*drawn, strict=True))
    weight = np.where(weight < 1e-3, 0.0, weight)
    expected = brute_auc(label, probability, weight)
    assert np.isclose(weighted_auc(label, probability, weight), expected, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("digits", [1, 2, 9])
def test_auc_and_average_precision_equal_scikit_learns(digits: int) -> None:
    rng = np.random.default_rng(digits)
    label, weight = rng.integers(0, 2, 500), rng.random(500)
    probability = np.round(rng.random(500) * 0.7 + 0.3 * label, digits)
    auc = reference.roc_auc_score(label, probability, sample_weight=weight)
    precision = reference.average_precision_score(label, probability, sample_weight=weight)
    assert abs(weighted_auc(label, probability, weight) - auc) < 1e-12
    assert abs(weighted_average_precision(label, probability, weight) - precision) < 1e-12


@pytest.mark.parametrize("digits", [1, 9])
def test_batches_of_weights_and_of_probabilities_equal_one_by_one(digits: int) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 40)
    probability, weight = np.round(rng.random((3, 2, 40)), digits), rng.random((3, 2, 40))
    both, one_rank, one_weight = (
        weighted_auc(label, probability, weight),
        weighted_auc(label, probability[0, 0], weight),
        weighted_auc(label, probability, weight[0, 0]),
    )
    for at in np.ndindex(3, 2):
        assert np.isclose(both[at], brute_auc(label, probability[at], weight[at]), rtol=0, atol=1e-12)
        assert np.isclose(one_rank[at], brute_auc(label, probability[0, 0], weight[at]), rtol=0, atol=1e-12)
        assert np.isclose(one_weight[at], brute_auc(label, probability[at], weight[0, 0]), rtol=0, atol=1e-12)


def test_auc_of_one_class_or_of_a_diverged_network_is_not_a_number() -> None:
    label, weight = np.array([0, 1, 1]), np.ones(3)
    assert np.isnan(weighted_auc(np.ones(3, dtype=int), np.arange(3.0), weight))
    assert np.isnan(weighted_auc(label, np.arange(3.0), np.array([0.0, 1.0, 1.0])))
    assert np.isnan(weighted_auc(label, np.array([np.nan, 0.1, 0.2]), weight))
    assert np.isnan(weighted_average_precision(np.zeros(3, dtype=int), np.arange(3.0), weight))


def test_the_score_is_the_mean_of_case_weighted_fold_aucs() -> None:
    predictions = simulate(20, n_repeats=2)
    expected = []
    for repeat in range(2):
        for fold in range(5):
            inside = predictions.fold[repeat] == fold
            group = predictions.group[inside]
            weight = np.array([1 / (group == one).sum() for one in group])
            expected.append(
                reference.roc_auc_score(
                    predictions.label[inside], predictions.probability[repeat, inside], sample_weight=weight
                )
            )
    assert np.allclose(fold_scores(predictions).ravel(), expected, rtol=0, atol=1e-12)
    assert np.isclose(score(predictions, BINARY), np.mean(expected), rtol=0, atol=1e-12)


def test_the_last_epochs_score_is_the_trials_score() -> None:
    predictions = simulate(20, n_repeats=2)
    rng = np.random.default_rng(0)
    epochs = np.stack([rng.random(predictions.probability.shape), np.full(predictions.probability.shape, 0.5)])
    epochs = np.concatenate([epochs, predictions.probability[None]])
    scores = epoch_scores(epochs, predictions.label, predictions.fold, predictions.weight, weighted_auc)
    assert scores.shape == (3,)
    assert scores[1] == pytest.approx(0.5, abs=1e-12)
    assert np.isclose(scores[2], score(predictions, BINARY), rtol=0, atol=1e-12)


def test_pooled_metrics_equal_scikit_learns_on_the_cross_fitted_decisions() -> None:
    predictions = simulate(20)
    found = trial_metrics(predictions, BINARY)
    called, weight, label = (
        cross_fitted_labels(predictions, BINARY).predicted[0],
        predictions.weight[0],
        predictions.label,
    )
    expected = {
        "balanced_accuracy": reference.balanced_accuracy_score(label, called, sample_weight=weight),
        "sensitivity": reference.recall_score(label, called, sample_weight=weight),
        "specificity": reference.recall_score(label, called, pos_label=0, sample_weight=weight),
        "f1": reference.f1_score(label, called, sample_weight=weight),
        "brier": reference.brier_score_loss(label, predictions.probability[0], sample_weight=weight),
        "recognition_rate": np.mean(
            [(called == label)[predictions.group == one].mean() for one in np.unique(predictions.group)]
        ),
    }
    for name, value in expected.items():
        assert np.isclose(found[name], value, rtol=0, atol=1e-12), name


def test_repeats_are_averaged() -> None:
    both = simulate(20, n_repeats=2)
    single = [
        trial_metrics(
            dataclasses.replace(both, probability=both.probability[at : at + 1], fold=both.fold[at : at + 1]),
            BINARY,
        )
        for at in (0, 1)
    ]
    together = trial_metrics(both, BINARY)
    for name in set(together) - {"auc_fold_std"}:
        assert np.isclose(together[name], (single[0][name] + single[1][name]) / 2, rtol=0, atol=1e-12), name


def test_calibration_error_is_the_mean_gap_over_bins() -> None:
    base = simulate(20)
    # Off the edges: 0.3 is not exact in binary, and which side it falls on is nobody's business.
    predictions = dataclasses.replace(base, probability=base.probability * 0.99 + 0.0035)
    p, y, w = predictions.probability[0], predictions.label, predictions.weight[0]
    gap = 0.0
    for low in np.arange(10) / 10:
        inside = (p >= low) & ((p < low + 0.1) if low < 0.85 else (p <= 1))
        if inside.any():
            gap += abs((w * (p - y))[inside].sum()) / w.sum()
    assert trial_metrics(predictions, BINARY)["ece"] == pytest.approx(gap, abs=1e-12)
    mass, mean, share = calibration_bins(predictions)
    assert mass.shape == mean.shape == share.shape == (1, 10)
    assert np.isclose(mass.sum(), 1)


def test_a_perfect_and_calibrated_trial_gets_the_best_of_everything() -> None:
    base = simulate(20)
    found = trial_metrics(dataclasses.replace(base, probability=base.label[None].astype(float)), BINARY)
    for name, value in found.items():
        assert value == pytest.approx(0 if name in ("auc_fold_std", "brier", "ece") else 1, abs=1e-12), name


INVARIANT_TO_RANKS = ("auc", "auc_fold_std", "average_precision", "magnification/40X", "magnification/100X")


@pytest.mark.parametrize("change", ["order", "duplication", "monotone"])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_metrics_do_not_depend_on(change: str, seed: int) -> None:
    # Order of files and number of copies say nothing about a classifier; ranks alone decide AUC and precision.
    base = simulate(14, n_repeats=2, n_folds=3, seed=seed, largest=12)
    rng = np.random.default_rng(seed)
    if change == "order":
        changed = reorder(base, rng.permutation(len(base)))
    elif change == "duplication":
        changed = reorder(base, np.tile(np.arange(len(base)), 3))
    else:
        changed = dataclasses.replace(base, probability=base.probability**3 / 2)
    before, after = trial_metrics(base, BINARY), trial_metrics(changed, BINARY)
    assert before.keys() == after.keys()
    for name in INVARIANT_TO_RANKS if change == "monotone" else before:
        assert name not in before or np.isclose(before[name], after[name], rtol=0, atol=1e-9, equal_nan=True), name


def test_magnifications_and_subtypes_get_metrics_of_their_own() -> None:
    base = simulate(20)
    found = trial_metrics(base, BINARY)
    assert {"magnification/40X", "magnification/100X", "recall/A", "recall/F", "recall/DC", "recall/LC"} < found.keys()
    assert found["magnification/40X"] == pytest.approx(score(base.select(base.magnification == "40X"), BINARY))
    unknown = np.full(len(base), "", dtype=object)
    plain = trial_metrics(dataclasses.replace(base, magnification=unknown, subtype=unknown), BINARY)
    assert not [name for name in plain if name.startswith(("magnification/", "recall/"))]


def test_a_magnification_of_one_class_has_no_auc() -> None:
    base = simulate(20)
    magnification = np.where(base.label == 1, "40X", "100X").astype(object)
    found = trial_metrics(dataclasses.replace(base, magnification=magnification), BINARY)
    assert "magnification/40X" not in found
    assert "magnification/100X" not in found


@given(st.lists(st.text(min_size=1, max_size=300), max_size=5))
def test_every_metric_name_is_one_that_mlflow_takes_and_no_two_are_the_same(names: list[str]) -> None:
    found = metric_names(names)
    assert set(found) == set(names)
    assert len(set(found.values())) == len(found)
    for valid in found.values():
        assert re.fullmatch(r"[\w\-. ]{1,160}", valid)
        path = f"site/{valid}/auc"
        assert posixpath.normpath(path) == path


def test_metric_names_keep_letters_of_every_script() -> None:
    assert metric_names(["Köln", "Zürich", "東京", "St. Marien"]) == {
        "Köln": "Köln", "Zürich": "Zürich", "東京": "東京", "St. Marien": "St. Marien",
    }  # fmt: skip
    assert metric_names(["Ulm/1", "Ulm:1", ".."]) == {"Ulm/1": "Ulm_1", "Ulm:1": "Ulm_1_2", "..": "__"}


def test_parts_cover_every_image_once_a_repeat() -> None:
    base = simulate(12, n_repeats=3)
    for repeat in range(3):
        covered = np.concatenate([rows for at, _, rows in iter_folds(base) if at == repeat])
        assert sorted(covered.tolist()) == list(range(len(base)))
