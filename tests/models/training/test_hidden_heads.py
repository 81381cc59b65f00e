from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bhsearch.errors import RunError
from bhsearch.models import backend
from bhsearch.models.training import hidden_epochs, hidden_epochs_device
from bhsearch.models.training import hidden_heads as module
from bhsearch.models.training.heads import Moments
from bhsearch.models.training.hidden_heads import fit, n_epochs
from tests.models.training.problems import N_FEATURES, N_FOLDS, Problem
from tests.tasks.samples import BINARY

UNITS, PENALTY = 5, 3.0
TRAINING = {"on_device": False}


@pytest.fixture(autouse=True, params=["numpy", "keras"])
def where(request, monkeypatch):
    """Run each test for both kinds of training."""
    monkeypatch.setitem(TRAINING, "on_device", request.param == "keras")
    return request.param


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Train for few epochs, except where a test says otherwise."""
    monkeypatch.setattr(module, "_FEWEST_EPOCHS", 4)
    monkeypatch.setattr(module, "_FEWEST_STEPS", 1)


def fit_all(problem, hidden_units=UNITS, penalty=PENALTY, seed=1, fold_models=slice(None), held_out=None):
    weights = problem.weights[:, fold_models]
    moments = [Moments.of(view, weights) for view in problem.views]
    rows = problem.held_out[fold_models] if held_out is None else held_out
    return fit(
        problem.views, problem.labels, weights, rows, moments, hidden_units, penalty, seed, loss=BINARY.loss, **TRAINING
    )


def arrays(heads):
    return [heads.kernel, heads.bias[None], heads.output_weights[None], heads.output_bias[None]]


def equal_fold_model(one, other, k):
    return all(np.array_equal(a[:, k], b[:, k]) for a, b in zip(arrays(one), arrays(other), strict=True))


def reference(problem, k, penalty, start, n_steps):
    """One fold model by Keras itself: its layers, loss, regularizers, schedule and Adam, with all rows as one batch."""
    import keras

    rows = problem.weights[:, k]
    mean = np.average(problem.views[0], axis=0, weights=rows)
    deviation = np.sqrt(np.average((problem.views[0] - mean) ** 2, axis=0, weights=rows))
    kernel, bias, top, top_bias = (array[:, k] for array in arrays(start))
    half = penalty / (rows > 0).sum() / 2
    network = keras.Sequential(
        [
            keras.layers.Dense(kernel.shape[1], "relu", kernel_regularizer=keras.regularizers.L2(half)),
            keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(half)),
        ]
    )
    network.build((None, problem.views.shape[2]))
    # The start is a fit that learned nothing, for raw features: back into standardised ones.
    network.set_weights([kernel * deviation[:, None], (bias + mean @ kernel)[0], top.T, top_bias])
    schedule = keras.optimizers.schedules.CosineDecay(module.LEARNING_RATE, n_steps)
    # Keras adds its epsilon before the correction of the second moment, which in the first steps makes more of it.
    network.compile(keras.optimizers.Adam(schedule, epsilon=1e-8), keras.losses.BinaryCrossentropy(from_logits=True))
    inputs = ((problem.views[0] - mean) / deviation).astype(np.float32)
    relative = (rows * len(rows) / rows.sum()).astype(np.float32)
    for _ in range(n_steps):
        network.train_on_batch(inputs, problem.labels[:, None].astype(np.float32), sample_weight=relative)
    return network.predict(inputs, verbose=0)[:, 0]


@pytest.mark.parametrize("penalty", [0.0, 30.0])
def test_a_fold_model_learns_as_kerass_own_layers_and_optimizer_do(monkeypatch, penalty):
    monkeypatch.setattr(module, "_FEWEST_EPOCHS", 12)
    problem = Problem(60, balanced=False)  # one batch, so that the order of the rows is nothing
    problem.views = problem.views[:1]
    with monkeypatch.context() as still:
        still.setattr(module, "LEARNING_RATE", 0.0)
        start = fit_all(problem, penalty=0.0).heads
    monkeypatch.setattr(module, "LEARNING_RATE", 0.05)
    logits = fit_all(problem, penalty=penalty).heads.logits(problem.views[0])
    expected = reference(problem, 1, penalty, start, 12)
    assert np.abs(expected).max() > 0.3
    np.testing.assert_allclose(logits[:, 1], expected, atol=5e-5)


def test_numpy_and_keras_train_the_same_heads(monkeypatch):
    found = {}
    for name in (False, True):
        monkeypatch.setitem(TRAINING, "on_device", name)
        found[name] = fit_all(Problem(n_images=400), hidden_units=16)
    one, other = found.values()
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)
    np.testing.assert_allclose(one.losses, other.losses, atol=1e-5)
    for array, another in zip(arrays(one.heads), arrays(other.heads), strict=True):
        np.testing.assert_allclose(array, another, atol=1e-4)


def test_all_folds_in_one_program_are_each_fold_by_itself():
    problem = Problem()
    together = fit_all(problem)
    for k in range(N_FOLDS):
        alone = fit_all(problem, fold_models=slice(k, k + 1))
        for one, other in zip(arrays(together.heads), arrays(alone.heads), strict=True):
            np.testing.assert_allclose(one[:, k : k + 1], other, atol=1e-5)
        np.testing.assert_allclose(together.logits[:, k : k + 1], alone.logits, atol=1e-4)


# -- no leak: what a fold model must not see leaves its head unchanged, bit for bit ------------------------------------


@pytest.mark.parametrize("k", range(N_FOLDS))
def test_noise_in_a_folds_validation_rows_leaves_its_head_unchanged(k):
    before = fit_all(Problem())
    problem, random = Problem(), np.random.default_rng(9)
    hidden = problem.fold == k
    problem.views[:, hidden] = random.normal(-50.0, 30.0, problem.views[:, hidden].shape)
    problem.labels[hidden] = random.integers(0, 2, hidden.sum())
    problem.groups[hidden] = random.uniform(0.2, 1.0, hidden.sum())
    after = fit_all(problem)
    assert equal_fold_model(before.heads, after.heads, k)
    for other in set(range(N_FOLDS)) - {k}:
        assert not equal_fold_model(before.heads, after.heads, other)


def test_a_padded_list_of_validation_rows_leaves_the_heads_unchanged():
    problem = Problem()
    before = fit_all(problem)
    padded = np.concatenate([problem.held_out, problem.held_out[:, :3] * 0 + 1], axis=1)
    after = fit_all(problem, held_out=padded)
    assert all(equal_fold_model(before.heads, after.heads, k) for k in range(N_FOLDS))
    np.testing.assert_allclose(after.logits[:, :, :-3], before.logits, atol=1e-5)


def test_large_gradients_are_clipped_by_fold_model(monkeypatch):
    for each in (hidden_epochs, hidden_epochs_device):
        monkeypatch.setattr(each, "MAX_GRADIENT_NORM", 0.05)
    problem = Problem()
    problem.labels = np.where(problem.fold == 0, problem.labels, 1 - problem.labels).astype(np.int8)
    together = fit_all(problem)
    for k in range(N_FOLDS):
        alone = fit_all(problem, fold_models=slice(k, k + 1))
        np.testing.assert_allclose(together.heads.kernel[:, k : k + 1], alone.heads.kernel, atol=1e-5)


# -- the result of a fit -----------------------------------------------------------------------------------------------


def test_the_last_step_of_the_curve_is_what_the_heads_predict_for_validation_rows():
    problem = Problem()
    fitted = fit_all(problem)
    held_out = fitted.heads.held_out_logits(problem.views[0], problem.held_out)
    np.testing.assert_allclose(fitted.logits[-1], held_out, atol=1e-4)
    assert fitted.logits.shape == (4, *problem.held_out.shape)
    assert fitted.losses.shape == (4,)
    assert not fitted.heads.linear
    assert fitted.heads.kernel.shape == (N_FEATURES, N_FOLDS, UNITS)


def test_few_images_are_trained_for_more_epochs(monkeypatch):
    monkeypatch.undo()
    assert n_epochs(128 * 500) == 20
    assert n_epochs(100) == 160  # one step per epoch
    assert n_epochs(129) == 80


def test_the_same_seed_gives_the_same_heads_bit_for_bit():
    one, other, another = (fit_all(Problem(), seed=seed) for seed in (1, 1, 2))
    assert all(equal_fold_model(one.heads, other.heads, k) for k in range(N_FOLDS))
    np.testing.assert_array_equal(one.logits, other.logits)
    assert not equal_fold_model(one.heads, another.heads, 0)


def test_views_other_than_the_first_are_learned_from():
    before = fit_all(Problem())
    problem = Problem()
    problem.views[1] = problem.views[1][:, ::-1]
    assert not equal_fold_model(before.heads, fit_all(problem).heads, 0)


def test_a_larger_penalty_shrinks_the_weights(monkeypatch):
    monkeypatch.setattr(module, "_FEWEST_EPOCHS", 40)
    norms = [np.linalg.norm(fit_all(Problem(), penalty=penalty).heads.kernel) for penalty in (0.0, 30.0)]
    assert norms[1] < 0.9 * norms[0]


def test_the_scale_of_a_feature_does_not_matter():
    problem = Problem()
    before = fit_all(problem).logits
    problem.views = problem.views * np.float32(64) - np.float32(100)
    np.testing.assert_allclose(fit_all(problem).logits, before, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, -6.9, 1000.0, 123456.7])
def test_a_constant_feature_does_no_harm(value):
    without, problem = Problem(), Problem()
    problem.views[:, :, 3] = value
    without.views[:, :, 3] = 0.0
    np.testing.assert_allclose(fit_all(problem).logits, fit_all(without).logits, atol=1e-3)


def test_a_dead_hidden_layer_is_an_error(monkeypatch):
    def dead(*arguments):
        kernel, bias, top, top_bias = initial(*arguments)
        return [kernel, bias - 1e4, top, top_bias]

    initial = module._initial_parameters
    monkeypatch.setattr(module, "_initial_parameters", dead)
    with pytest.raises(RunError, match="hidden layer of fold model 0 is dead: none of its 5 units is active"):
        fit_all(Problem())


def test_a_head_that_a_strong_penalty_shrinks_to_nothing_predicts_a_constant(monkeypatch):
    """The order of predictions that differ by a thousandth would have an AUC, and may win a search."""
    monkeypatch.setattr(module, "_FEWEST_EPOCHS", 40)
    problem = Problem()
    fitted = fit_all(problem, penalty=1000.0)
    logits, trained_on = fitted.heads.logits(problem.views[0]), problem.weights > 0
    constant = np.ptp(logits, axis=0) == 0.0
    assert 0 < constant.sum() < len(constant)
    for k, rows in enumerate(trained_on.T):
        assert constant[k] or logits[rows, k].std() >= 0.05
    assert (fitted.logits[-1][constant] == fitted.heads.output_bias[constant, None]).all()
    assert not (np.ptp(fit_all(problem, penalty=1.0).heads.logits(problem.views[0]), axis=0) == 0.0).any()


# -- learning ----------------------------------------------------------------------------------------------------------


def test_it_learns_what_a_line_cannot(monkeypatch):
    monkeypatch.setattr(module, "_FEWEST_EPOCHS", 80)
    monkeypatch.setattr(module, "LEARNING_RATE", 0.1)
    random = np.random.default_rng(0)
    problem = Problem(600, 2)
    problem.views = random.uniform(-1, 1, (1, 600, 2)).astype(np.float32)
    problem.labels = (problem.views[0].prod(axis=1) > 0).astype(np.int8)
    logits, rows = fit_all(problem, 16, 0.1).logits[-1, 0], problem.held_out[0]
    assert roc_auc_score(problem.labels[rows], logits) > 0.95


def test_the_weights_decide_which_class_counts(monkeypatch):
    monkeypatch.setattr(module, "_FEWEST_EPOCHS", 20)
    problem = Problem(balanced=False)
    problem.groups = np.where(problem.labels == 1, 1.0, 0.02)
    plain = fit_all(problem).logits[-1]
    problem.balanced = True
    balanced = fit_all(problem).logits[-1]
    assert (1 / (1 + np.exp(-plain))).mean() > (1 / (1 + np.exp(-balanced))).mean() + 0.15


def test_all_trials_share_one_program(monkeypatch, where):
    """A trial must not pay for compiling: neither other hyperparameters nor other sizes are traced again."""
    if where == "numpy":
        pytest.skip("NumPy compiles nothing")
    if backend.name() != "tensorflow":
        pytest.skip("JAX compiles once a shape")
    traced = []  # Python runs the function only while a program is traced
    forward = hidden_epochs_device._forward
    monkeypatch.setattr(hidden_epochs_device, "_forward", lambda *a: traced.append(1) or forward(*a))
    hidden_epochs_device._compiled_epoch.cache_clear()
    fit_all(Problem(150, 7))
    once = list(traced)
    assert once
    for units, penalty in ((3, 0.1), (8, 100.0), (3, 1.0)):
        fit_all(Problem(130 + 40 * units, 5 + units), units, penalty)
    assert traced == once
    hidden_epochs_device._compiled_epoch.cache_clear()
