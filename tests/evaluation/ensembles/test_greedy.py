"""Greedy selection: the best step found by trying all, never worse than the best member."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bhsearch.evaluation.ensembles.greedy import greedy_weights
from bhsearch.evaluation.metrics import weighted_auc


@pytest.fixture
def members():
    random = np.random.default_rng(0)
    n_images, n_members = 150, 6
    label = (random.random(n_images) < 0.4).astype(np.int8)
    logits = label - 0.5 + random.normal(0, 1.5, (n_members, n_images))
    fold = (np.arange(n_images) % 4).astype(np.int8)
    return 1 / (1 + np.exp(-logits)), label, fold, random.uniform(0.2, 1.0, n_images)


def mean_auc(probability, label, fold, weight):
    return np.mean(
        [
            roc_auc_score(label[fold == k], probability[fold == k], sample_weight=weight[fold == k])
            for k in np.unique(fold)
        ]
    )


def test_every_step_adds_the_best_member(members):
    """Each step is repeated here with scikit-learn's AUC."""
    probability, *rest = members
    chosen: list[int] = []
    scores = []
    for _ in range(8):
        tried = [mean_auc(probability[[*chosen, one]].mean(axis=0), *rest) for one in range(len(probability))]
        chosen.append(int(np.argmax(tried)))
        scores.append(max(tried))
    kept = chosen[: int(np.argmax(scores)) + 1]
    expected = np.bincount(kept, minlength=len(probability)) / len(kept)
    np.testing.assert_allclose(greedy_weights(probability, *rest, weighted_auc, n_steps=8), expected)


def test_the_ensemble_is_never_worse_than_its_best_member(members):
    probability, *rest = members
    weights = greedy_weights(probability, *rest, weighted_auc)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights > 0).sum() > 1
    assert mean_auc(weights @ probability, *rest) > max(mean_auc(one, *rest) for one in probability)


def test_a_perfect_member_is_the_whole_ensemble(members):
    probability, label, fold, weight = members
    perfect = np.concatenate([probability, 0.25 + 0.5 * label[None]])
    assert greedy_weights(perfect, label, fold, weight, weighted_auc).tolist() == [0, 0, 0, 0, 0, 0, 1]
