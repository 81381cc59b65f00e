"""Robustness: the same numbers as scikit-learn gives, and thresholds that shifted images do not move."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from bhsearch.evaluation.metrics import trial_metrics
from bhsearch.evaluation.robustness import Robustness, robustness
from bhsearch.evaluation.thresholds import cross_fitted_labels
from tests.evaluation.simulated import reorder, simulate
from tests.tasks.samples import BINARY


@pytest.fixture(scope="module")
def clean():
    return simulate(30, n_repeats=2)


def noisy(clean, seed=0, size=1.0):
    """Probabilities of the same images whose logits have noise."""
    logit = np.log(clean.probability.clip(0.01, 0.99) / (1 - clean.probability.clip(0.01, 0.99)))
    moved = logit + size * np.random.default_rng(seed).normal(size=logit.shape)
    return (1 / (1 + np.exp(-moved))).astype(np.float32)


def found(clean, shifted):
    return robustness(clean, shifted, cross_fitted_labels(clean, BINARY).threshold, BINARY)


def test_the_numbers_are_those_of_scikit_learn(clean):
    threshold = cross_fitted_labels(clean, BINARY).threshold
    probability = noisy(clean)
    effect = robustness(clean, {"noise": probability}, threshold, BINARY).shifts["noise"]
    aucs, accuracies, shares = [], [], []
    for repeat in range(2):
        labels = {}
        for name, values in (("before", clean.probability[repeat]), ("after", probability[repeat])):
            labels[name] = np.zeros(len(clean), int)
            for fold in range(clean.n_folds):
                rows = clean.fold[repeat] == fold
                labels[name][rows] = values[rows] >= threshold[repeat, fold]
        weight = clean.weight[repeat]
        accuracies.append(
            balanced_accuracy_score(clean.label, labels["after"], sample_weight=weight)
            - balanced_accuracy_score(clean.label, labels["before"], sample_weight=weight)
        )
        shares.append(np.average(labels["before"] != labels["after"], weights=weight))
        for fold in range(clean.n_folds):
            rows = clean.fold[repeat] == fold
            aucs.append(
                [
                    roc_auc_score(clean.label[rows], values[repeat, rows], sample_weight=weight[rows])
                    for values in (probability, clean.probability)
                ]
            )
    after, before = np.mean(aucs, axis=0)
    assert effect.auc == pytest.approx(after, rel=1e-9)
    assert effect.auc_change == pytest.approx(after - before, rel=1e-9)
    assert effect.balanced_accuracy_change == pytest.approx(np.mean(accuracies), rel=1e-9)
    assert effect.labels_changed == pytest.approx(np.mean(shares), rel=1e-9)


def test_clean_numbers_are_those_of_the_trial(clean):
    values, result = trial_metrics(clean, BINARY), found(clean, {"noise": noisy(clean)})
    assert result.auc == values["auc"]
    assert result.balanced_accuracy == values["balanced_accuracy"]


def test_unchanged_images_have_no_effect(clean):
    result = found(clean, {"nothing": clean.probability})
    assert set(result.summary().values()) == {0.0}


def test_a_shift_of_all_probabilities_changes_labels_but_no_ranking(clean):
    result = found(clean, {"darker": clean.probability / 2})
    assert result.worst_auc_change == pytest.approx(0.0, abs=1e-12)
    assert result.labels_changed > 0.1
    assert result.worst_balanced_accuracy_change < 0


def test_worst_and_mean_are_over_the_shifts(clean):
    result = found(clean, {"weak": noisy(clean, size=0.2), "strong": noisy(clean, size=3.0)})
    weak, strong = result.shifts["weak"], result.shifts["strong"]
    assert result.worst_shift == "strong"
    assert result.worst_auc_change == strong.auc_change < weak.auc_change
    assert result.mean_auc_change == pytest.approx((weak.auc_change + strong.auc_change) / 2)
    assert result.worst_balanced_accuracy_change == strong.balanced_accuracy_change
    assert result.labels_changed == pytest.approx((weak.labels_changed + strong.labels_changed) / 2)


def test_every_case_counts_the_same(clean):
    """A case whose images are all given twice has no more weight."""
    rows = np.concatenate([np.arange(len(clean)), np.flatnonzero(clean.group == clean.group[-1])])
    doubled, probability = reorder(clean, rows), noisy(clean)
    threshold = cross_fitted_labels(clean, BINARY).threshold
    one = robustness(clean, {"noise": probability}, threshold, BINARY)
    other = robustness(doubled, {"noise": probability[:, rows]}, threshold, BINARY)
    assert other.summary() == pytest.approx(one.summary(), abs=1e-12)


def test_it_survives_a_file(clean):
    result = found(clean, {"weak": noisy(clean, size=0.2), "strong": noisy(clean)})
    record = json.loads(json.dumps(result.to_record()))
    assert Robustness.from_record(record) == result
    assert record["labels_changed"] == result.labels_changed
