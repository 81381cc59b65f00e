from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bhsearch.models import backend
from bhsearch.models.training import linear_probe as module
from bhsearch.models.training.linear_probe import HeadParams, Moments, fit, standardisation
from tests.tasks.samples import BINARY

N_FEATURES, N_FOLDS = 7, 3
PLAIN = HeadParams(
    hidden_units=0, dropout=0.0, optimizer="adamw", learning_rate=0.01, schedule="cosine", weight_decay=1e-3,
    label_smoothing=0.0, epochs=20, standardise=True,
)  # fmt: skip
LINEAR = replace(PLAIN, dropout=0.3, learning_rate=0.02, weight_decay=0.1, epochs=4)
HIDDEN = replace(LINEAR, hidden_units=5, optimizer="sgd", label_smoothing=0.1)


class Problem:
    """Features of two views, labels and folds; what a study hands to `fit`.

    Args:
        n_images: More than a batch of `fit`, unless told otherwise.
        balanced: Whether each class has half of a column's training weight.
    """

    def __init__(self, n_images=150, n_features=N_FEATURES, *, balanced=True, seed=0):
        random = np.random.default_rng(seed)
        self.views = random.normal(3.0, 2.0, (2, n_images, n_features)).astype(np.float32)
        self.labels = (self.views[0, :, 0] + random.normal(0, 1, n_images) > 3.0).astype(np.int8)
        self.fold = np.arange(n_images) % N_FOLDS
        self.groups = random.uniform(0.2, 1.0, n_images)  # images of a large group weigh less
        self.balanced = balanced

    @property
    def held_out(self):
        rows = [np.flatnonzero(self.fold == k) for k in range(N_FOLDS)]
        return np.stack([np.resize(r, max(map(len, rows))) for r in rows])

    @property
    def weights(self):
        weights = np.where(self.fold[:, None] == np.arange(N_FOLDS), 0.0, self.groups[:, None])
        if not self.balanced:
            return weights
        classes = [weights * (self.labels == value)[:, None] for value in (0, 1)]
        return sum(part / part.sum(axis=0) for part in classes)

    def fit(self, params, seed=1, columns=slice(None)):
        weights = self.weights[:, columns]
        moments = [Moments.of(view, weights) for view in self.views]
        return fit(self.views, self.labels, weights, self.held_out[columns], moments, params, seed, loss=BINARY.loss)


def arrays(heads):
    return [heads.kernel, heads.bias[None], heads.output_weights[None], heads.output_bias[None]]


def equal_column(one, other, column):
    return all(np.array_equal(a[:, column], b[:, column]) for a, b in zip(arrays(one), arrays(other), strict=True))


def reference(problem, column, params, start):
    """One column by Keras itself: its layers, its loss, its optimizer, all training rows as one batch."""
    import keras

    rows = problem.weights[:, column]
    mean = np.average(problem.views[0], axis=0, weights=rows)
    deviation = np.sqrt(np.average((problem.views[0] - mean) ** 2, axis=0, weights=rows))
    if not params.standardise:
        mean, deviation = np.zeros_like(mean), np.ones_like(deviation)
    kernel, bias, top, top_bias = (array[:, column] for array in arrays(start))
    images = keras.Input((problem.views.shape[2],))
    layers = (
        [keras.layers.Dense(1)]
        if start.linear
        else [keras.layers.Dense(kernel.shape[1], "relu"), keras.layers.Dense(1)]
    )
    outputs = images
    for layer in layers:
        outputs = layer(outputs)
    network = keras.Model(images, outputs)
    # The start is that of a fit that learned nothing, in the space of the raw features: back into the standardised one.
    inner = [kernel * deviation[:, None], (bias + mean @ kernel)[0]]
    network.set_weights(inner if start.linear else [*inner, top.T, top_bias])
    if params.optimizer == "adamw":
        # Keras adds its epsilon before the correction of the second moment, which in the first steps makes more of it.
        optimizer = keras.optimizers.AdamW(params.learning_rate, weight_decay=params.weight_decay, epsilon=1e-8)
    else:
        optimizer = keras.optimizers.SGD(
            params.learning_rate, momentum=0.9, nesterov=True, weight_decay=params.weight_decay
        )
    # Ours takes the decay off the kernels that see features; the small layer on top and the biases are left alone.
    optimizer.exclude_from_weight_decay(var_list=network.trainable_variables[1:])
    loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=params.label_smoothing)
    network.compile(optimizer, loss)
    inputs = ((problem.views[0] - mean) / deviation).astype(np.float32)
    relative = (rows * len(rows) / rows.sum()).astype(np.float32)
    targets = problem.labels[:, None].astype(np.float32)
    for _ in range(params.epochs):
        network.train_on_batch(inputs, targets, sample_weight=relative)
    return network.predict(inputs, verbose=0)[:, 0]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(("hidden_units", "standardise"), [(0, True), (0, False), (4, True)])
def test_a_column_learns_as_kerass_own_layers_and_optimizers_do(optimizer, hidden_units, standardise):
    params = replace(
        PLAIN,
        hidden_units=hidden_units,
        optimizer=optimizer,
        learning_rate=0.05,
        schedule="constant",
        weight_decay=0.3,
        label_smoothing=0.2,
        epochs=8,
        standardise=standardise,
    )
    # One batch, so that the order of the rows is nothing; and no class balance, under which the gradient of a bias
    # starts at zero and AdamW makes a step of its rounding error.
    problem = Problem(60, balanced=False)
    problem.views = problem.views[:1] / (1 if standardise else 3)
    start = problem.fit(replace(params, learning_rate=0.0, epochs=1)).heads
    logits = problem.fit(params).heads.logits(problem.views[0])
    expected = reference(problem, 1, params, start)
    assert np.abs(expected).max() > 0.3
    np.testing.assert_allclose(logits[:, 1], expected, atol=5e-5)


@pytest.mark.parametrize("params", [LINEAR, HIDDEN], ids=["linear", "hidden"])
def test_all_folds_in_one_program_are_each_fold_by_itself(params):
    problem = Problem()
    together = problem.fit(params)
    for k in range(N_FOLDS):
        alone = problem.fit(params, columns=slice(k, k + 1))
        for one, other in zip(arrays(together.heads), arrays(alone.heads), strict=True):
            np.testing.assert_allclose(one[:, k : k + 1], other, atol=1e-5)
        np.testing.assert_allclose(together.logits[:, k : k + 1], alone.logits, atol=1e-4)


# No leak: what a column must not see leaves its head unchanged, bit for bit.


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("params", [LINEAR, HIDDEN], ids=["linear", "hidden"])
@pytest.mark.parametrize("column", range(N_FOLDS))
def test_noise_for_a_folds_validation_rows_leaves_its_head_unchanged(params, standardise, column):
    params = replace(params, standardise=standardise)
    before = Problem().fit(params)
    problem, random = Problem(), np.random.default_rng(9)
    hidden = problem.fold == column
    problem.views[:, hidden] = random.normal(-50.0, 30.0, problem.views[:, hidden].shape)
    problem.labels[hidden] = random.integers(0, 2, hidden.sum())
    problem.groups[hidden] = random.uniform(0.2, 1.0, hidden.sum())
    after = problem.fit(params)
    assert equal_column(before.heads, after.heads, column)
    for other in set(range(N_FOLDS)) - {column}:
        assert not equal_column(before.heads, after.heads, other)


def test_a_padded_list_of_validation_rows_leaves_the_heads_unchanged():
    # Rows that only pad are looked at, never learned from.
    problem = Problem()
    before = problem.fit(LINEAR)
    padded = np.concatenate([problem.held_out, problem.held_out[:, :3] * 0 + 1], axis=1)
    moments = [Moments.of(view, problem.weights) for view in problem.views]
    after = fit(problem.views, problem.labels, problem.weights, padded, moments, LINEAR, 1, loss=BINARY.loss)
    assert all(equal_column(before.heads, after.heads, k) for k in range(N_FOLDS))
    np.testing.assert_allclose(after.logits[:, :, :-3], before.logits, atol=1e-5)


@pytest.mark.parametrize("params", [LINEAR, HIDDEN], ids=["linear", "hidden"])
def test_large_gradients_are_shortened_column_by_column(params):
    # Unscaled features of a wide network: what one column's gradient is must not shorten another's.
    params = replace(params, optimizer="sgd", standardise=False, dropout=0.0, learning_rate=0.1)
    problem = Problem()
    problem.views *= np.where(problem.fold == 0, 200.0, 5.0)[:, None].astype(
        np.float32
    )  # column 0 learns from small ones
    together = problem.fit(params)
    assert np.isfinite(together.logits).all()
    assert np.abs(together.heads.kernel).max() < 20
    for k in range(N_FOLDS):
        alone = problem.fit(params, columns=slice(k, k + 1))
        np.testing.assert_allclose(together.heads.kernel[:, k : k + 1], alone.heads.kernel, atol=1e-4)


# What a fit gives


@pytest.mark.parametrize("params", [LINEAR, HIDDEN], ids=["linear", "hidden"])
def test_the_last_curve_is_what_the_heads_say_of_validation_rows(params):
    problem = Problem()
    fitted = problem.fit(params)
    of_all = fitted.heads.logits(problem.views[0])
    held_out = fitted.heads.held_out_logits(problem.views[0], problem.held_out)
    np.testing.assert_allclose(
        held_out, np.stack([of_all[rows, k] for k, rows in enumerate(problem.held_out)]), atol=1e-4
    )
    np.testing.assert_allclose(fitted.logits[-1], held_out, atol=1e-4)
    assert fitted.logits.shape == (params.epochs, *problem.held_out.shape)
    assert fitted.losses.shape == (params.epochs,)
    assert fitted.heads.linear == (params.hidden_units == 0)
    assert fitted.heads.kernel.shape == (N_FEATURES, N_FOLDS, max(params.hidden_units, 1))


def test_the_loss_starts_at_a_coin_toss_and_falls():
    fitted = Problem(100).fit(replace(LINEAR, dropout=0.0, epochs=15, optimizer="sgd"))
    assert fitted.losses[0] == pytest.approx(np.log(2))  # a linear head starts at one half for every image
    assert fitted.losses[-1] < fitted.losses[0] - 0.02


@pytest.mark.parametrize("params", [LINEAR, HIDDEN], ids=["linear", "hidden"])
def test_the_same_seed_gives_the_same_heads_bit_for_bit(params):
    one, other, another = (Problem().fit(params, seed) for seed in (1, 1, 2))
    assert all(equal_column(one.heads, other.heads, k) for k in range(N_FOLDS))
    np.testing.assert_array_equal(one.logits, other.logits)
    assert not equal_column(one.heads, another.heads, 0)


def test_views_other_than_the_first_are_learned_from():
    params = replace(LINEAR, standardise=False)  # whose numbers come from all views in any case
    before = Problem().fit(params)
    problem = Problem()
    problem.views[1] += 1.0
    assert not equal_column(before.heads, problem.fit(params).heads, 0)


def test_the_cosine_schedule_ends_at_no_learning():
    constant, cosine = (Problem().fit(replace(LINEAR, epochs=10, schedule=name)) for name in ("constant", "cosine"))
    last_step = [np.abs(fitted.logits[-1] - fitted.logits[-2]).mean() for fitted in (constant, cosine)]
    assert last_step[1] < 0.3 * last_step[0]


def test_weight_decay_shrinks_the_kernel():
    norms = [np.linalg.norm(Problem().fit(replace(LINEAR, weight_decay=decay)).heads.kernel) for decay in (0.0, 3.0)]
    assert norms[1] < 0.9 * norms[0]


def test_dropout_keeps_what_a_head_expects():
    # What is kept is scaled up, so that the mean of the logits stays.
    params = replace(PLAIN, learning_rate=0.02, epochs=15)
    without, with_dropout = (Problem().fit(replace(params, dropout=share)) for share in (0.0, 0.4))
    means = [np.abs(fitted.logits[-1]).mean() for fitted in (without, with_dropout)]
    assert means[1] == pytest.approx(means[0], rel=0.4)
    assert not np.array_equal(without.logits, with_dropout.logits)


# Standardisation


def test_standardisation_is_by_the_columns_own_training_rows():
    problem = Problem(balanced=False)
    moments = [Moments.of(view, problem.weights) for view in problem.views]
    mean, inverse = standardisation(moments)
    for k in range(N_FOLDS):
        rows = np.concatenate(list(problem.views)).astype(np.float64)
        weights = np.tile(problem.weights[:, k], 2)
        expected = np.average(rows, axis=0, weights=weights)
        deviation = np.sqrt(np.average((rows - expected) ** 2, axis=0, weights=weights))
        np.testing.assert_allclose(mean[k], expected, rtol=1e-5)
        np.testing.assert_allclose(inverse[k], 1 / deviation, rtol=1e-5)


def test_standardised_heads_do_not_mind_the_scale_of_a_feature():
    params = replace(LINEAR, weight_decay=0.0, dropout=0.0)
    problem = Problem()
    before = problem.fit(params).logits
    problem.views = problem.views * np.float32(64) - np.float32(100)
    np.testing.assert_allclose(problem.fit(params).logits, before, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, -6.9, 1000.0, 123456.7])
@pytest.mark.parametrize("params", [LINEAR, HIDDEN], ids=["linear", "hidden"])
def test_a_constant_feature_does_no_harm(params, value):
    params = replace(params, dropout=0.0, epochs=10)
    without, problem = Problem(), Problem()
    problem.views[:, :, 3] = value
    without.views[:, :, 3] = 0.0
    fitted = problem.fit(params)
    np.testing.assert_allclose(fitted.logits, without.fit(params).logits, atol=1e-3)


# Learning


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("hidden_units", [0, 16])
def test_it_learns_what_can_be_learned(optimizer, hidden_units):
    random = np.random.default_rng(0)
    problem = Problem(240, 10)
    problem.labels = (np.arange(240) // 3 % 2).astype(np.int8)
    problem.views = random.normal(0, 1, problem.views.shape).astype(np.float32)
    problem.views[:, :, :3] += 2 * problem.labels[:, None]
    params = replace(PLAIN, hidden_units=hidden_units, optimizer=optimizer, learning_rate=0.03, epochs=25, dropout=0.2)
    logits = problem.fit(params).logits[-1]
    for k, rows in enumerate(problem.held_out):
        assert roc_auc_score(problem.labels[rows], logits[k]) > 0.95


def test_a_hidden_layer_learns_what_a_line_cannot():
    random = np.random.default_rng(0)
    problem = Problem(600, 2)
    problem.views = random.uniform(-1, 1, (1, 600, 2)).astype(np.float32)
    problem.labels = (problem.views[0].prod(axis=1) > 0).astype(np.int8)
    auc = {}
    for units in (0, 16):
        params = replace(PLAIN, hidden_units=units, learning_rate=0.1, epochs=60, weight_decay=1e-4)
        logits, rows = problem.fit(params).logits[-1, 0], problem.held_out[0]
        auc[units] = roc_auc_score(problem.labels[rows], logits)
    assert auc[16] > 0.95
    assert auc[0] < 0.7


def test_the_weights_decide_which_class_counts():
    problem = Problem(balanced=False)
    problem.groups = np.where(problem.labels == 1, 1.0, 0.02)
    plain, balanced = (1 / (1 + np.exp(-logits)) for logits in self_and_balanced(problem))
    assert plain.mean() > balanced.mean() + 0.15


def self_and_balanced(problem):
    params = replace(PLAIN, learning_rate=0.05, epochs=20)
    plain = problem.fit(params).logits[-1]
    problem.balanced = True
    return plain, problem.fit(params).logits[-1]


def test_trials_of_one_kind_of_head_share_one_program(monkeypatch):
    # A trial must not pay for compiling: neither other hyperparameters nor other sizes are traced again.
    if backend.name() != "tensorflow":
        pytest.skip("JAX compiles once a shape")
    traced = []
    for name in ("_linear_forward", "_hidden_forward"):  # Python runs them only while a program is traced
        forward = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, run=forward: traced.append(name) or run(*a))
    module._compiled_epoch.cache_clear()
    for params in (LINEAR, HIDDEN):
        Problem(150, 7).fit(replace(params, epochs=1))
    once = list(traced)
    assert set(once) == {"_linear_forward", "_hidden_forward"}
    for optimizer in ("adamw", "sgd"):
        for dropout in (0.0, 0.5):
            for units in (0, 3, 8):
                params = HeadParams(units, dropout, optimizer, 0.01 + dropout, "constant", 0.5, 0.1, 2, dropout > 0)
                Problem(130 + 40 * units, 5 + units).fit(params)
    assert traced == once
    module._compiled_epoch.cache_clear()
