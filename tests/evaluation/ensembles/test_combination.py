"""Out-of-fold ensembles: the weights of a fold do not depend on anything of this fold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bhsearch.evaluation.ensembles.combination import Weights, fit_ensemble, greedy, logit, stack
from bhsearch.evaluation.ensembles.comparison import compare
from bhsearch.evaluation.metrics import score
from tests.evaluation.simulated import simulate
from tests.tasks.samples import BINARY

N_MEMBERS = 5
METHODS = pytest.mark.parametrize("method", [greedy, stack])


@pytest.fixture(scope="module")
def template():
    return simulate(n_cases=60, n_repeats=2, n_folds=3, largest=8)


def drawn(template, spread=1.5):
    """Draw predictions of members for each fold model, the same for all of them."""
    random = np.random.default_rng(1)
    case = random.normal(0, 1.0, template.group.max() + 1)[template.group]
    members = template.label - 0.5 + case + random.normal(0, spread, (N_MEMBERS, 1, len(template)))
    n_fold_models = template.n_repeats * template.n_folds
    return np.repeat(1 / (1 + np.exp(-members)), n_fold_models, axis=1).astype(np.float32)


@METHODS
def test_an_image_is_predicted_with_the_weights_of_its_fold(template, method):
    probability = drawn(template)
    weights, out_of_fold = fit_ensemble(probability, template, BINARY, method)
    for repeat in range(2):
        for k in range(3):
            own, row = template.fold[repeat] == k, repeat * 3 + k
            expected = weights[row].combine(probability[:, row, own])
            np.testing.assert_allclose(out_of_fold.probability[repeat, own], expected, rtol=1e-5)


@METHODS
def test_noise_in_a_fold_changes_no_weight_used_on_it(template, method):
    """Labels of the fold are swapped, and all predictions for its images are replaced."""
    probability, row = drawn(template), 4
    own = template.fold[1] == 1
    noisy = probability.copy()
    noisy[:, row, own] = np.random.default_rng(2).random((N_MEMBERS, own.sum()))
    swapped = replace(template, label=np.where(own, 1 - template.label, template.label).astype(np.int8))
    before, _ = fit_ensemble(probability, template, BINARY, method)
    after, _ = fit_ensemble(noisy, swapped, BINARY, method)
    assert before[row].members.tobytes() == after[row].members.tobytes()
    assert before[row].intercept == after[row].intercept
    assert any(one.members.tobytes() != other.members.tobytes() for one, other in zip(before, after, strict=True))


@METHODS
def test_an_ensemble_of_independent_members_beats_each(template, method):
    probability = drawn(template)
    _, out_of_fold = fit_ensemble(probability, template, BINARY, method)
    members = [replace(template, probability=probability[m, [0, 3]]) for m in range(N_MEMBERS)]
    best = max(members, key=lambda member: score(member, BINARY))
    assert score(out_of_fold, BINARY) > score(best, BINARY)
    compared = compare(out_of_fold, best, BINARY)
    assert compared.difference == pytest.approx(score(out_of_fold, BINARY) - score(best, BINARY))
    assert compared.low < compared.difference < compared.high


def test_an_ensemble_is_proposed_if_the_interval_is_above_zero(template):
    random = np.random.default_rng(3)
    noise = random.normal(size=template.fold.shape)
    weak, strong = (
        replace(template, probability=1 / (1 + np.exp(-(shift * (template.label - 0.5) + noise)))) for shift in (1, 4)
    )
    assert compare(strong, weak, BINARY).is_proposed
    assert not compare(weak, strong, BINARY).is_proposed
    assert not compare(weak, weak, BINARY).is_proposed


def test_logits_are_combined_with_the_intercept():
    probability = np.array([[0.2, 0.5], [0.9, 0.01]])
    combined = Weights(np.array([0.5, 2.0]), -0.3, on_logits=True).combine(probability)
    np.testing.assert_allclose(
        logit(combined), 0.5 * logit(probability[0]) + 2 * logit(probability[1]) - 0.3, atol=1e-9
    )
    averaged = Weights(np.array([0.25, 0.75]), 0.0, on_logits=False).combine(probability)
    np.testing.assert_allclose(averaged, [0.725, 0.1325])


def test_logits_of_certain_probabilities_are_finite():
    assert logit(np.array([0.0, 1.0])) == pytest.approx([-13.815510, 13.815510])
