from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.models.inference_model import ModelPool, ensemble
from bhsearch.models.resize import make_resize
from bhsearch.models.saliency import GRAD_CAM, INPUT_GRADIENT, explain
from bhsearch.models.training.heads import Heads
from bhsearch.models.training.train_step import ModelWeights
from tests.models.conftest import tissue
from tests.tasks.samples import BINARY

SIZE = 64


@pytest.fixture(scope="module")
def pool():
    return ModelPool(BINARY.link)


@pytest.fixture(scope="module")
def images():
    """Of different sizes, as files have."""
    return [tissue(1, 120, density=0.1)[0][:80, :], tissue(1, 96, density=0.5, seed=1)[0]]


@pytest.fixture(scope="module")
def largest(images):
    """Largest value of each feature, for networks whose weights are drawn at random and give tiny ones."""

    @cache
    def of(backbone):
        seen = np.concatenate([make_resize("crop", SIZE).apply(image) for image in images]).astype(np.float32)
        return np.abs(np.asarray(backbone.build(SIZE)(seen))).max(axis=0)

    return of


def answer(network, image):
    """The probability of one image; without tracing, which takes seconds for each size."""
    return float(np.asarray(network(image[None], training=False))[0, 0])


def head(largest, sign=1.0, n_fold_models=1):
    """Linear heads of which none is ever sure, nor without an answer."""
    random = np.random.default_rng(5)
    kernel = random.normal(0.2, 1, (len(largest), n_fold_models, 1)) / (largest.max() * len(largest) ** 0.5)
    bias, one = np.full((n_fold_models, 1), 0.3), np.ones((n_fold_models, 1), np.float32)
    return Heads((sign * kernel).astype(np.float32), (sign * bias).astype(np.float32), one, 0 * one[:, 0], True)


def test_grad_cam_of_a_linear_head_is_its_weights_on_the_last_map(pool, mobilenet, images, largest):
    """So it must be by its definition: the slope of a mean over a map is the weight over the map's size."""
    import keras

    heads = head(largest(mobilenet))
    network = pool.get(mobilenet, "crop", SIZE, (IDENTITY,), heads)
    (inner,) = [layer for layer in mobilenet.build(SIZE).layers if isinstance(layer, keras.Model)]
    before_pooling = keras.Model(inner.inputs, inner.layers[-2].output)
    for image, found in zip(images, explain(network, images, "crop", threshold=0.0), strict=True):
        maps = np.asarray(before_pooling([found.seen[None].astype(np.float32) / 127.5 - 1]))
        expected = np.maximum((maps[0] * heads.kernel[:, 0, 0]).sum(axis=-1), 0)
        assert found.method == GRAD_CAM
        assert found.heat.shape == (2, 2)
        np.testing.assert_allclose(found.heat * expected.max(), expected, rtol=0.02, atol=0.02 * expected.max())
        assert found.probability == pytest.approx(answer(network, image), abs=1e-5)


def test_what_is_hot_for_the_filters_moves_the_answer_more_than_what_is_cold(pool, staintex_s, images, largest):
    network = pool.get(staintex_s, "squash", SIZE, (IDENTITY,), head(largest(staintex_s)))
    (found,) = explain(network, images[1:], "squash")
    assert found.method == INPUT_GRADIENT
    assert found.heat.shape == found.seen.shape[:2] == (SIZE, SIZE)
    noise = np.random.default_rng(0).normal(0, 8, found.seen.shape)
    cut = np.median(found.heat)
    moved = []
    for place in (found.heat > cut, found.heat <= cut):
        changed = np.clip(found.seen + noise * place[:, :, None], 0, 255).round().astype(np.uint8)
        moved.append(abs(answer(network, changed) - answer(network, found.seen)))
    assert moved[0] > 1.3 * moved[1]


def test_heat_speaks_for_the_answer_whichever_it_is(pool, mobilenet, images, largest):
    there = explain(pool.get(mobilenet, "crop", SIZE, (IDENTITY,), head(largest(mobilenet))), images, "crop")
    turned = explain(
        pool.get(mobilenet, "crop", SIZE, (IDENTITY,), head(largest(mobilenet), sign=-1.0)), images, "crop"
    )
    for first, second in zip(there, turned, strict=True):
        assert first.probability == pytest.approx(1 - second.probability, abs=1e-6)
        np.testing.assert_allclose(first.heat, second.heat, atol=1e-4)
    against = explain(
        pool.get(mobilenet, "crop", SIZE, (IDENTITY,), head(largest(mobilenet))), images, "crop", threshold=1.0
    )
    assert any(not np.allclose(a.heat, b.heat) for a, b in zip(there, against, strict=True) if a.probability > 0.5)


@pytest.mark.parametrize("name", ["mobilenet", "staintex_s"])
def test_tiles_and_views_are_put_together_again(pool, images, largest, name, request):
    backbone = request.getfixturevalue(name)
    network = pool.get(backbone, "tiles", SIZE, views_of("dihedral", 3), head(largest(backbone), n_fold_models=3))
    for image, found in zip(images, explain(network, images, "tiles"), strict=True):
        tiles = make_resize("tiles", SIZE).apply(image)
        upper = np.concatenate(list(tiles[:3]), axis=1)
        np.testing.assert_array_equal(found.seen[:SIZE], upper)
        assert found.seen.shape == (2 * SIZE, 3 * SIZE, 3)
        assert found.heat.shape == ((4, 6) if name == "mobilenet" else (2 * SIZE, 3 * SIZE))
        assert 0 <= found.heat.min() <= found.heat.max() == 1
        assert found.probability == pytest.approx(answer(network, image), abs=1e-5)


def test_a_network_inside_another_that_takes_the_same_images_is_looked_into(pool, mobilenet, images, largest):
    """So a calibration stands around a model; it changes no ranking, and no heat."""
    import keras

    network = pool.get(mobilenet, "crop", SIZE, (IDENTITY,), head(largest(mobilenet)))
    outer = keras.Input((None, None, 3), dtype="uint8")
    around = keras.Model(outer, keras.ops.square(network(outer)))
    for first, second in zip(explain(network, images, "crop"), explain(around, images, "crop"), strict=True):
        np.testing.assert_array_equal(first.heat, second.heat)
        assert first.probability == second.probability


def test_a_saved_model_is_looked_into_like_the_one_it_was(pool, staintex_s, images, largest, tmp_path):
    import keras

    network = pool.get(staintex_s, "crop", SIZE, (IDENTITY,), head(largest(staintex_s)))
    network.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for first, second in zip(explain(network, images, "crop"), explain(loaded, images, "crop"), strict=True):
        np.testing.assert_allclose(first.heat, second.heat, atol=1e-4)


def test_flat_glass_has_a_heat_map_too(pool, staintex_s, images, largest):
    """Nothing varies there, and a deviation of zero has no slope."""
    network = pool.get(staintex_s, "crop", SIZE, (IDENTITY,), head(largest(staintex_s)))
    (found,) = explain(network, [np.full((SIZE, SIZE, 3), 245, np.uint8)], "crop")
    assert np.isfinite(found.heat).all()
    assert found.heat.max() == 1


def test_an_ensemble_of_finetuned_networks_is_looked_into(mobilenet, images, largest):
    """The two members have opposite heads but for a tenth, so that one alone would answer otherwise."""
    weights = mobilenet.build(SIZE).get_weights()
    members = []
    for sign in (1.0, -0.9):
        heads = head(largest(mobilenet), sign)
        members.append(
            ModelWeights(weights, [heads.kernel[:, 0], heads.bias[0], heads.output_weights[0], heads.output_bias[0]])
        )
    network = ensemble(mobilenet, "crop", SIZE, views_of("dihedral", 2), 0, members, link=BINARY.link)
    for image, found in zip(images, explain(network, images, "crop"), strict=True):
        assert found.method == INPUT_GRADIENT
        assert found.heat.shape == found.seen.shape[:2] == (SIZE, SIZE)
        assert 0 <= found.heat.min() < found.heat.max() == 1
        assert found.probability == pytest.approx(answer(network, image), abs=1e-5)


def test_something_else_than_a_deployed_model_is_refused():
    import keras

    images = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match="contains no backbone"):
        explain(keras.Model(images, keras.layers.Flatten()(images)), [], "crop")
