from __future__ import annotations

from itertools import pairwise

import keras
import numpy as np
import pytest

from bhsearch.models.backbones import cnn
from tests.models.conftest import tissue


def started(size=32, seed=0):
    network = cnn.build(size)
    network.set_weights(cnn.initial_weights(network, np.random.default_rng(seed)))
    return network


@pytest.mark.parametrize("size", [32, 33, 64])
def test_images_become_features_that_tell_them_apart(size):
    images = tissue(3, size).astype(np.float32)
    features = np.asarray(started(size)(images, training=False))
    assert features.shape == (3, cnn.WIDTHS[-1])
    assert np.isfinite(features).all()
    assert (features.std(axis=0) > 0).mean() > 0.5


def test_it_has_the_weights_it_says_and_stock_layers_only():
    network = cnn.build(64)
    assert network.count_params() == cnn.N_PARAMETERS
    kinds = {type(layer) for layer in network.layers[1:]}
    assert all(getattr(keras.layers, kind.__name__) is kind for kind in kinds)
    assert keras.layers.Dropout not in kinds
    assert len(network.trainable_weights) == 3 * len(cnn.WIDTHS)


def test_the_start_is_hes_and_the_same_for_the_same_seed():
    network = cnn.build(32)
    values = cnn.initial_weights(network, np.random.default_rng(0))
    assert [value.shape for value in values] == [tuple(weight.shape) for weight in network.weights]
    for weight, value, again, other in zip(
        network.weights,
        values,
        cnn.initial_weights(network, np.random.default_rng(0)),
        cnn.initial_weights(network, np.random.default_rng(1)),
        strict=True,
    ):
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, again)
        if weight.name == "kernel":
            assert value.std() == pytest.approx(np.sqrt(2 / np.prod(value.shape[:-1])), rel=0.1)
            assert not np.array_equal(value, other)
        else:
            assert (value == (weight.name in ("gamma", "moving_variance"))).all()


def test_signals_neither_fade_nor_explode_on_their_way():
    # What He's deviation is for; batch normalisation in training mode would hide a wrong one.
    network = started(64)
    inner = keras.Model(network.input, [network.get_layer(f"stage{k}_relu").output for k in range(1, 6)])
    noise = np.random.default_rng(0).uniform(0, 255, (4, 64, 64, 3)).astype(np.float32)
    powers = [float(np.mean(np.square(np.asarray(part)))) for part in inner(noise, training=False)]
    assert all(0.2 < after / before < 5 for before, after in pairwise(powers))


def test_a_network_with_other_weights_is_refused():
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    with pytest.raises(ValueError, match=r"weight '.*head/bias'"):
        cnn.initial_weights(other, np.random.default_rng(0))
