from __future__ import annotations

import numpy as np
import pytest

from bhsearch.models.training.heads import Heads, Moments, standardisation
from tests.models.training.problems import N_FOLDS, Problem


def test_standardisation_is_by_the_fold_models_own_training_rows():
    problem = Problem(balanced=False)
    mean, inverse = standardisation([Moments.of(view, problem.weights) for view in problem.views])
    for k in range(N_FOLDS):
        rows = np.concatenate(list(problem.views)).astype(np.float64)
        weights = np.tile(problem.weights[:, k], 2)
        expected = np.average(rows, axis=0, weights=weights)
        deviation = np.sqrt(np.average((rows - expected) ** 2, axis=0, weights=weights))
        np.testing.assert_allclose(mean[k], expected, rtol=1e-5)
        np.testing.assert_allclose(inverse[k], 1 / deviation, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, -6.9, 1000.0, 123456.7])
def test_a_constant_feature_has_an_inverse_deviation_of_zero(value):
    problem = Problem()
    problem.views[:, :, 3] = value
    _, inverse = standardisation([Moments.of(view, problem.weights) for view in problem.views])
    assert not inverse[:, 3].any()
    assert np.delete(inverse, 3, axis=1).all()


@pytest.mark.parametrize("hidden_units", [0, 4])
def test_held_out_logits_are_those_of_all_images_at_the_validation_rows(hidden_units):
    random, problem = np.random.default_rng(0), Problem()
    kernel = random.normal(size=(problem.views.shape[2], N_FOLDS, max(hidden_units, 1))).astype(np.float32)
    bias = random.normal(size=(N_FOLDS, max(hidden_units, 1))).astype(np.float32)
    if hidden_units:
        heads = Heads(kernel, bias, 2 * bias, bias[:, 0], False)
    else:
        heads = Heads.of_linear(kernel[:, :, 0], bias[:, 0])
        np.testing.assert_allclose(
            heads.logits(problem.views[0]), problem.views[0] @ kernel[:, :, 0] + bias[:, 0], atol=1e-4
        )
    of_all = heads.logits(problem.views[0])
    held_out = heads.held_out_logits(problem.views[0], problem.held_out)
    expected = np.stack([of_all[rows, k] for k, rows in enumerate(problem.held_out)])
    np.testing.assert_allclose(held_out, expected, atol=1e-4)


def test_arrays_restore_the_heads():
    kernel = np.arange(12, dtype=np.float32).reshape(4, 3)
    heads = Heads.of_linear(kernel, kernel[0])
    restored = Heads.from_arrays(heads.to_arrays(), heads.linear)
    features = np.ones((2, 4), np.float32)
    assert restored.linear
    np.testing.assert_array_equal(restored.logits(features), heads.logits(features))


def test_joined_encoders_have_the_same_variance_in_sum_whatever_their_number_of_features():
    """By hand: training rows are standardised, blocks of 2, 1 (of which none varies), and 6 features."""
    random = np.random.default_rng(0)
    features = (random.normal(size=(40, 9)) * random.uniform(0.1, 9, 9)).astype(np.float32)
    features[:, 2] = 5.0
    weights = np.zeros((40, 2))
    weights[:30, 0] = weights[10:, 1] = 1.0
    mean, inverse = standardisation([Moments.of(features, weights, (2, 1, 6))])
    for fold, rows in enumerate((slice(0, 30), slice(10, 40))):
        variance = ((features[rows] - mean[fold]) * inverse[fold]).var(axis=0)
        assert [variance[:2].sum(), variance[2], variance[3:].sum()] == pytest.approx([4, 0, 4], rel=1e-4)
    _, single = standardisation([Moments.of(features, weights)])
    _, one_block = standardisation([Moments.of(features, weights, (9,))])
    np.testing.assert_array_equal(one_block, single)
