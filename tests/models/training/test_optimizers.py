"""Optimizer steps compared with Keras's optimizers, and learning rate schedules."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.models.training.optimizers import BETA2, MOMENTUM, bias_corrections, learning_rates, optimizer_step

N_STEPS = 12
SHAPE = (7, 3)


def by_the_rule(start, gradients, rate, adam, decay):
    p, m, v = start, np.zeros_like(start), np.zeros_like(start)
    path = []
    for gradient, correction in zip(gradients, bias_corrections(np.arange(N_STEPS)), strict=True):
        p, m, v = (np.asarray(part) for part in optimizer_step(p, m, v, gradient, rate, correction, adam, decay))
        path.append(p)
    return np.stack(path)


def by_keras(start, gradients, optimizer):
    import keras

    variable = keras.Variable(start)
    optimizer.build([variable])
    path = []
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)])
        path.append(keras.ops.convert_to_numpy(variable.value).copy())
    return np.stack(path)


@pytest.fixture
def problem():
    random = np.random.default_rng(0)
    start = random.normal(0, 1, SHAPE).astype(np.float32)
    return start, random.normal(0, 1, (N_STEPS, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_with_one_it_is_adamw_step_by_step(problem, decay):
    import keras

    start, gradients = problem
    optimizer = keras.optimizers.AdamW(1e-2, weight_decay=decay)
    ours, kerass = by_the_rule(start, gradients, 1e-2, 1.0, decay), by_keras(start, gradients, optimizer)
    np.testing.assert_allclose(ours, kerass, atol=2e-6)
    assert np.abs(ours[-1] - start).max() > 0.01


@pytest.mark.parametrize("decay", [None, 0.3])
def test_with_zero_it_is_nesterov_momentum_step_by_step(problem, decay):
    import keras

    start, gradients = problem
    optimizer = keras.optimizers.SGD(1e-2, momentum=MOMENTUM, nesterov=True, weight_decay=decay)
    ours, kerass = by_the_rule(start, gradients, 1e-2, 0.0, decay), by_keras(start, gradients, optimizer)
    np.testing.assert_allclose(ours, kerass, atol=2e-6)


def test_rate_and_decay_may_be_of_each_parameter(problem):
    start, gradients = problem
    rate = np.where(np.arange(SHAPE[1]) > 0, 1e-2, 0.0).astype(np.float32)
    decay = np.where(np.arange(SHAPE[1]) > 1, 0.3, 0.0).astype(np.float32)
    path = by_the_rule(start, gradients, rate, 1.0, decay)[-1]
    np.testing.assert_array_equal(path[:, 0], start[:, 0])
    np.testing.assert_allclose(path[:, 1], by_the_rule(start, gradients, 1e-2, 1.0, 0.0)[-1][:, 1], atol=1e-6)
    np.testing.assert_allclose(path[:, 2], by_the_rule(start, gradients, 1e-2, 1.0, 0.3)[-1][:, 2], atol=1e-6)


def test_corrections_are_adams_and_go_to_one():
    found = bias_corrections(np.array([0, 1, 100_000]))
    np.testing.assert_allclose(found[0], [1 - MOMENTUM, 1 - BETA2], rtol=1e-6)
    np.testing.assert_allclose(found[1], [1 - MOMENTUM**2, 1 - BETA2**2], rtol=1e-6)
    assert found[2].tolist() == [1.0, 1.0]


def test_a_constant_rate_is_constant_after_its_rise():
    found = learning_rates(0.2, "constant", 20, warmup=0.25)
    np.testing.assert_allclose(found[:5], 0.2 * np.arange(1, 6) / 6, rtol=1e-6)
    assert (found[5:] == np.float32(0.2)).all()
    assert (learning_rates(0.2, "constant", 20) == np.float32(0.2)).all()


def test_a_cosine_starts_at_its_peak_and_falls_to_zero():
    found = learning_rates(0.2, "cosine", 100)
    assert found[0] == np.float32(0.2)
    assert found[50] == pytest.approx(0.1, rel=1e-6)
    assert (np.diff(found) < 0).all()
    assert 0 < found[-1] < 0.001


def test_a_cosine_rises_first_where_it_is_told_to():
    found = learning_rates(1.0, "cosine", 100, warmup=0.1)
    assert (np.diff(found[:11]) > 0).all()
    assert found.argmax() == 10
    assert found[10] == 1.0
    assert found[55] == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("n_steps", [1, 2, 3])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_shortest_training_has_rates_above_zero(n_steps, schedule):
    found = learning_rates(0.1, schedule, n_steps, warmup=0.3)
    assert found.shape == (n_steps,)
    assert ((found > 0) & (found <= np.float32(0.1))).all()
