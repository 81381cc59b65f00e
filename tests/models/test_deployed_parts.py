"""Parts of a deployed model: features for all images in the pass that predicts, whatever the views and tiles."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.models.calibrated import calibrated, image_outputs, load_network, predict_images
from bhsearch.models.deployed_parts import with_features
from bhsearch.models.inference_model import ModelPool, ensemble
from bhsearch.models.resize import grid_of, make_resize
from bhsearch.models.training.heads import Heads
from tests.models.conftest import tissue
from tests.models.finetuning import own_backbone
from tests.tasks.samples import BINARY

SIZE = 64


@pytest.fixture(scope="module")
def images():
    """Of two sizes, as files have."""
    return [*tissue(2, 96, density=0.1), tissue(1, 120, density=0.5, seed=1)[0][:80, :]]


def heads_of(n_features):
    random = np.random.default_rng(5)
    kernel = random.normal(0, 0.05, (n_features, 2, 1)).astype(np.float32)
    one = np.ones((2, 1), np.float32)
    return Heads(kernel, 0.1 * one, one, 0 * one[:, 0], True)


@pytest.mark.parametrize(
    ("mode", "views"), [("crop", (IDENTITY,)), ("squash", views_of("dihedral", 3)), ("tiles", views_of("dihedral", 2))]
)
def test_probability_and_features_come_from_one_pass(staintex_s, images, mode, views, tmp_path):
    encoder = staintex_s.build(SIZE)
    raw = ModelPool(BINARY.link).get(staintex_s, mode, SIZE, views, heads_of(encoder.output_shape[-1]))
    calibrated(raw, 1.5, -0.2).save(tmp_path / "model.keras")
    network = load_network(tmp_path / "model.keras")
    n_tiles = int(np.prod(grid_of(mode)))
    found = list(image_outputs(with_features(network), images, n_tiles))
    assert [each.probability for each in found] == pytest.approx(list(predict_images(network, images)), abs=1e-6)
    assert [each.uncalibrated for each in found] == pytest.approx(list(predict_images(raw, images)), abs=1e-6)
    assert [each.size for each in found] == [image.shape[:2] for image in images]
    for image, each in zip(images, found, strict=True):
        tiles = make_resize(mode, SIZE).apply(image).astype(np.float32)
        expected = np.asarray(encoder(tiles)).mean(axis=0)
        assert each.features == pytest.approx(expected, rel=1e-3, abs=1e-3 * float(np.abs(expected).max()))


def test_an_ensemble_of_networks_gives_the_features_of_its_first_member(tmp_path, images):
    from bhsearch.models.training.train_step import ModelWeights

    backbone = own_backbone(tmp_path)
    built = backbone.build(SIZE)
    n_features = built.output_shape[-1]
    random = np.random.default_rng(1)

    def member(scale):
        head = [random.normal(size=(n_features, 1)), np.zeros(1), np.ones(1), np.zeros(1)]
        weights = [scale * np.asarray(weight) for weight in built.weights]
        return ModelWeights(weights, [np.asarray(each, np.float32) for each in head])

    network = calibrated(
        ensemble(backbone, "crop", SIZE, (IDENTITY,), 0, [member(1.0), member(0.5)], BINARY.link), 1.0, 0.0
    )
    found = list(image_outputs(with_features(network), images))
    assert [each.probability for each in found] == pytest.approx(list(predict_images(network, images)), abs=1e-6)
    for image, each in zip(images, found, strict=True):
        expected = np.asarray(built(make_resize("crop", SIZE).apply(image).astype(np.float32)))[0]
        assert each.features == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_network_without_an_encoder_is_refused():
    inputs = keras.Input((None, None, 3), dtype="uint8")
    bare = keras.Model(inputs, keras.ops.mean(keras.ops.cast(inputs, "float32"), axis=(1, 2)))
    with pytest.raises(ValueError, match="must contain an encoder"):
        with_features(bare)
