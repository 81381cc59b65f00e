"""The path of linear heads: scikit-learn's solution for each fold model and penalty, and nothing of validation rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from bhsearch.errors import RunError
from bhsearch.models.training import logistic_path as module
from bhsearch.models.training.heads import Moments, standardisation
from bhsearch.models.training.logistic_path import fit_path

N_FOLDS = 3
COSTS = np.geomspace(1e-4, 1.0, 4)
SHAPES = {"full Newton": (150, 7), "conjugate gradients": (400, 260), "row space": (60, 110)}


class Problem:
    """Correlated positive features on different scales, as of a network's last layer, with weighted rows.

    Args:
        n_rows: Number of rows.
        n_features: Number of features; one of them is constant.
        n_classes: Number of classes.
    """

    def __init__(self, n_rows, n_features, n_classes=2):
        random = np.random.default_rng(0)
        hidden = random.normal(size=(n_rows, 6))
        mixed = hidden @ random.normal(size=(6, n_features)) + random.normal(size=(n_rows, n_features))
        self.features = np.maximum(random.uniform(0.1, 10.0, n_features) * mixed + 1.0, 0.0).astype(np.float32)
        self.features[:, 2] = 5.0
        self.labels = (hidden[:, :n_classes] + random.normal(size=(n_rows, n_classes))).argmax(axis=1)
        self.n_classes = n_classes
        self.fold = np.arange(n_rows) % N_FOLDS
        self.importance = random.uniform(0.1, 1.0, n_rows)

    @property
    def weights(self):
        return np.where(self.fold[:, None] == np.arange(N_FOLDS), 0.0, self.importance[:, None])

    def fit(self, costs=COSTS, **options):
        weights = self.weights
        moments = standardisation([Moments.of(self.features, weights)])
        return fit_path(self.features, self.labels, weights, *moments, costs, self.n_classes, **options)

    def logits(self, path, place, fold_model):
        logits = self.features.astype(np.float64) @ path.kernel[place, :, fold_model] + path.bias[place, fold_model]
        return logits if self.n_classes == 2 else logits - logits.mean(axis=1, keepdims=True)

    def reference(self, cost, fold_model):
        """The logits of scikit-learn's model in float64, converged far below the tolerance of the path."""
        rows = np.flatnonzero(self.weights[:, fold_model])
        weight = self.weights[rows, fold_model]
        mean, scale = (
            array[fold_model].astype(np.float64) for array in standardisation([Moments.of(self.features, self.weights)])
        )
        inputs = (self.features - mean) * scale
        weight = weight * (len(rows) / weight.sum())
        model = LogisticRegression(C=cost, solver="newton-cholesky", tol=1e-10, max_iter=200)
        with threadpool_limits(1, "blas"):
            model.fit(inputs[rows], self.labels[rows], weight)
        logits = inputs @ model.coef_.T + model.intercept_
        return logits if self.n_classes == 2 else logits - logits.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_logits_are_those_of_scikit_learn(shape, n_classes):
    problem = Problem(*shape, n_classes)
    path = problem.fit()
    assert (path.gradient_norms <= 1e-9).all()
    for fold_model in range(N_FOLDS):
        for place, cost in enumerate(COSTS):
            expected = problem.reference(cost, fold_model)
            found = problem.logits(path, place, fold_model)
            assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_noise_in_a_folds_validation_rows_leaves_its_heads_unchanged_bit_for_bit_at_every_penalty(shape, n_classes):
    before, random = Problem(*shape, n_classes).fit(), np.random.default_rng(1)
    for fold_model in range(N_FOLDS):
        problem = Problem(*shape, n_classes)
        hidden = problem.fold == fold_model
        problem.features[hidden] = random.normal(-50.0, 30.0, problem.features[hidden].shape)
        problem.labels[hidden] = random.integers(0, n_classes, hidden.sum())
        problem.importance[hidden] = random.uniform(0.1, 1.0, hidden.sum())
        after = problem.fit()
        for other in range(N_FOLDS):
            same = before.kernel[:, :, other].tobytes() == after.kernel[:, :, other].tobytes()
            same &= before.bias[:, other].tobytes() == after.bias[:, other].tobytes()
            assert same == (other == fold_model)


def test_the_order_of_the_penalties_does_not_matter():
    problem = Problem(*SHAPES["conjugate gradients"])
    one, other = problem.fit(COSTS), problem.fit(COSTS[::-1])
    np.testing.assert_array_equal(one.kernel, other.kernel[::-1])
    np.testing.assert_array_equal(one.losses, other.losses[::-1])


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_path_that_is_continued_is_the_same_bit_for_bit(shape, n_classes):
    problem = Problem(*shape, n_classes)
    whole, first = problem.fit(), problem.fit(COSTS[:1])
    second = problem.fit(COSTS[1:3], start=first)
    third = problem.fit(COSTS[3:], start=second)
    for name in ("kernel", "bias", "losses", "gradient_norms"):
        parts = [getattr(path, name) for path in (first, second, third)]
        np.testing.assert_array_equal(np.concatenate(parts), getattr(whole, name))


def test_the_scale_of_the_weights_does_not_matter():
    problem = Problem(*SHAPES["full Newton"])
    before = problem.fit()
    problem.importance *= 1000.0
    np.testing.assert_allclose(problem.fit().kernel, before.kernel, rtol=1e-6, atol=1e-9)


def test_a_weaker_penalty_fits_the_training_rows_better():
    problem = Problem(*SHAPES["conjugate gradients"])
    path = problem.fit()
    assert (np.diff(path.losses, axis=0) < 0).all()
    rows = problem.fold != 1
    logits = problem.logits(path, 2, 1)[rows, 0]
    each = np.logaddexp(0.0, logits) - logits * problem.labels[rows]
    assert path.losses[2, 1] == pytest.approx(np.average(each, weights=problem.importance[rows]))


def test_a_constant_feature_has_no_weight():
    for shape in SHAPES.values():
        assert not Problem(*shape).fit().kernel[:, 2].any()


def test_features_without_any_variance_give_the_class_frequencies():
    problem = Problem(90, 5)
    problem.features[:] = 3.0
    path = problem.fit()
    assert not path.kernel.any()
    expected = np.average(problem.labels[:, None] * np.ones(N_FOLDS), axis=0, weights=problem.weights)
    np.testing.assert_allclose(1 / (1 + np.exp(-path.bias[:, :, 0])), np.tile(expected, (len(COSTS), 1)))


def test_features_far_from_zero_are_solved_too():
    """With a mean of thousands of deviations, products in float32 are right in few digits only."""
    problem = Problem(*SHAPES["conjugate gradients"])
    problem.features = (problem.features / 16 + 4096).astype(np.float32)
    path = problem.fit()
    expected = problem.reference(COSTS[-1], 0)
    assert np.abs(problem.logits(path, len(COSTS) - 1, 0) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_groups_of_fold_models_give_the_same_heads(monkeypatch):
    problem = Problem(*SHAPES["conjugate gradients"])
    together = problem.fit()
    monkeypatch.setattr(module, "_PRECONDITIONER_BYTES", 1)  # each fold model by itself
    alone = problem.fit()
    np.testing.assert_allclose(alone.kernel, together.kernel, atol=1e-7)


def test_a_head_that_does_not_converge_is_an_error():
    problem = Problem(*SHAPES["full Newton"])
    with pytest.raises(RunError, match=r"fall to 0 of its first value, but that of fold model \d at C = 0.0001 is at"):
        problem.fit(tolerance=0.0)
    problem.features[4, 1] = np.inf
    weights = problem.weights
    moments = np.zeros((N_FOLDS, 7)), np.ones((N_FOLDS, 7))
    with np.errstate(invalid="ignore"), pytest.raises(RunError, match="is at nan"):
        fit_path(problem.features, problem.labels, weights, *moments, COSTS)
