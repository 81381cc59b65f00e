"""Deployed models agree with the scored predictions."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.data.images.decode import decode
from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.features import FeatureCache
from bhsearch.models.inference_model import ModelPool, arrays_of, ensemble, members_of
from bhsearch.models.resize import make_resize
from bhsearch.models.training.device_images import DevicePixels
from bhsearch.models.training.finetune import predict
from bhsearch.models.training.heads import Heads
from bhsearch.models.training.train_step import ModelWeights
from tests.models.conftest import pixels_of, tissue
from tests.models.finetuning import same, start_of
from tests.tasks.samples import BINARY

SIZE = 48
N_COLUMNS = 4
# Backbone, resize, views, hidden units.
CASES = {
    "plain": ("mobilenet", "crop", (IDENTITY,), 0),
    "squash, hidden": ("staintex_s", "squash", (IDENTITY,), 3),
    "views": ("staintex_s", "crop", views_of("dihedral-stain", 4), 3),
    "tiles": ("staintex_s", "tiles", (IDENTITY,), 0),
    "tiles and views": ("staintex_s", "tiles", views_of("zoom", 3), 3),
}
ACROSS_EXECUTORS = ("tiles and views",)  # `test_features` compares the features of MobileNet


SHAPES = ((92, 140), (160, 97), (48, 48), (30, 45))


@pytest.fixture(scope="module")
def originals():
    """Images of different sizes, as files have."""
    whole = [tissue(1, 160, density=density, seed=seed)[0] for seed, density in enumerate((0.05, 0.2, 0.5, 0.3))]
    return [image[:height, :width] for image, (height, width) in zip(whole, SHAPES, strict=True)]


def make_heads(features, hidden, seed=0):
    """Heads whose probabilities spread, each fold's otherwise. `features`: (n_images, n_features)."""
    random = np.random.default_rng(seed)
    kernel = random.normal(0, 1, (features.shape[1], N_COLUMNS, max(hidden, 1)))
    kernel /= (np.abs(features).max(axis=0) + 1e-3 * np.abs(features).max())[:, None, None] * np.sqrt(len(kernel))
    bias = random.normal(0, 0.5, kernel.shape[1:]) - np.einsum("nd,dfh->fh", features, kernel) / len(features)
    top = random.normal(0, 1, bias.shape) if hidden else np.ones(bias.shape)
    top_bias = random.normal(0, 0.5, N_COLUMNS) if hidden else np.zeros(N_COLUMNS)
    return Heads(*(part.astype(np.float32) for part in (kernel, bias, top, top_bias)), linear=hidden == 0)


class Study:
    """Features of some images by way of the caches that a study trains from."""

    def __init__(self, images, folder):
        self._images, self._folder = images, folder
        self._caches = {}

    def features(self, backbone, mode, view, feature_backend="keras"):
        if (mode, feature_backend) not in self._caches:
            resize = make_resize(mode, SIZE)
            pixels = pixels_of(
                np.concatenate([resize.apply(image) for image in self._images]), self._folder, resize.shape[0]
            )
            self._caches[mode, feature_backend] = FeatureCache(pixels, feature_backend)
        return self._caches[mode, feature_backend].get(backbone, view)

    def heads(self, backbone, mode, hidden, seed=0):
        return make_heads(self.features(backbone, mode, IDENTITY), hidden, seed)

    def expected(self, backbone, mode, views, heads, feature_backend="keras"):
        """Mean over views and folds of the heads' probabilities."""
        logits = np.stack([heads.logits(self.features(backbone, mode, view, feature_backend)) for view in views])
        return (1 / (1 + np.exp(-logits.astype(np.float64)))).mean(axis=(0, 2))


@pytest.fixture(scope="module")
def study(originals, tmp_path_factory):
    return Study(originals, tmp_path_factory.mktemp("pixels"))


@pytest.fixture(scope="module", autouse=True)
def _start_early(elsewhere):
    """The other process imports Keras while the first tests run here."""


def by_model(model, images):
    return np.concatenate([np.asarray(model(image[None], training=False)) for image in images])


@pytest.mark.parametrize("name", CASES)
def test_the_model_gives_the_mean_of_the_heads_from_the_original_images(name, originals, study, request):
    fixture, mode, views, hidden = CASES[name]
    backbone = request.getfixturevalue(fixture)
    heads = study.heads(backbone, mode, hidden)
    expected = study.expected(backbone, mode, views, heads)
    probability = by_model(ModelPool(BINARY.link).get(backbone, mode, SIZE, views, heads), originals)
    assert probability.shape == (len(originals), 1)
    assert probability.dtype == np.float32
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(probability[:, 0], expected, atol=1e-5)
    if name in ACROSS_EXECUTORS:
        across = study.expected(backbone, mode, views, heads, "openvino")
        np.testing.assert_allclose(probability[:, 0], across, atol=1e-3)


def test_the_model_takes_bytes_of_any_size_and_gives_one_probability(staintex_s, study):
    model = ModelPool(BINARY.link).get(staintex_s, "crop", SIZE, (IDENTITY,), study.heads(staintex_s, "crop", 0))
    [signature] = model.inputs
    assert (signature.shape, signature.dtype) == ((None, None, None, 3), "uint8")
    assert model.output_shape == (None, 1)


@pytest.mark.parametrize("name", ["views", "tiles and views"])
def test_images_in_a_batch_are_told_as_they_are_alone(name, study, request):
    # Views and tiles go through the backbone as one batch: none may end up with another image.
    fixture, mode, views, hidden = CASES[name]
    images = tissue(5, 60, density=0.1)
    images[3:] = 255 - images[3:]
    backbone = request.getfixturevalue(fixture)
    model = ModelPool(BINARY.link).get(backbone, mode, SIZE, views, study.heads(backbone, mode, hidden))
    np.testing.assert_allclose(model.predict(images, verbose=0), by_model(model, images), atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "tiles and views"])
def test_the_model_loads_where_bhsearch_was_never_imported(name, originals, study, elsewhere, request):
    fixture, mode, views, hidden = CASES[name]
    backbone = request.getfixturevalue(fixture)
    model = ModelPool(BINARY.link).get(backbone, mode, SIZE, views, study.heads(backbone, mode, hidden))
    image = originals[0][None]
    np.testing.assert_allclose(elsewhere.predict(model, image), by_model(model, image), atol=1e-6)


@pytest.mark.parametrize("hidden", [0, 3])
def test_the_next_model_of_a_shape_is_the_same_network_with_its_own_heads(hidden, staintex_s, originals, study):
    pool = ModelPool(BINARY.link)
    models = []
    for seed in (0, 1, 0):
        heads = study.heads(staintex_s, "crop", hidden, seed)
        expected = study.expected(staintex_s, "crop", (IDENTITY,), heads)
        model = pool.get(staintex_s, "crop", SIZE, (IDENTITY,), heads)
        np.testing.assert_allclose(by_model(model, originals)[:, 0], expected, atol=1e-5)
        models.append(model)
    assert models[0] is models[1] is models[2]


def test_another_shape_is_another_network(staintex_s, originals, study):
    pool = ModelPool(BINARY.link)
    models = []
    for mode, views, hidden in (
        ("crop", (IDENTITY,), 0),
        ("squash", (IDENTITY,), 0),
        ("crop", views_of("dihedral", 2), 0),
        ("crop", (IDENTITY,), 1),  # one hidden unit has the arrays of a linear head, and is none
    ):
        heads = study.heads(staintex_s, mode, hidden)
        expected = study.expected(staintex_s, mode, views, heads)
        models.append(pool.get(staintex_s, mode, SIZE, views, heads))
        np.testing.assert_allclose(by_model(models[-1], originals)[:, 0], expected, atol=1e-5)
    assert len({id(model) for model in models}) == len(models)


def test_a_network_that_the_pool_let_go_is_built_again(staintex_s, originals, study):
    pool = ModelPool(BINARY.link)
    heads = study.heads(staintex_s, "crop", 0)
    first = pool.get(staintex_s, "crop", SIZE, (IDENTITY,), heads)
    for view in views_of("stain", 8)[1:]:
        pool.get(staintex_s, "crop", SIZE, (view,), heads)
    again = pool.get(staintex_s, "crop", SIZE, (IDENTITY,), heads)
    assert again is not first
    expected = study.expected(staintex_s, "crop", (IDENTITY,), heads)
    np.testing.assert_allclose(by_model(again, originals)[:, 0], expected, atol=1e-5)


def test_a_backbone_may_be_called_like_a_layer_of_the_model(study, originals, tmp_path):
    import keras

    images = keras.Input((None, None, 3))
    network = keras.Model(images, keras.layers.Conv2D(5, 3)(keras.layers.Rescaling(1 / 255)(images)))
    for name in ("image", "fold_kernels"):
        network.save(tmp_path / f"{name}.keras")
        backbone = find_backbones([str(tmp_path / f"{name}.keras")], None).backbones[0]
        heads = study.heads(backbone, "crop", 0)
        model = ModelPool(BINARY.link).get(backbone, "crop", SIZE, (IDENTITY,), heads)
        expected = study.expected(backbone, "crop", (IDENTITY,), heads)
        np.testing.assert_allclose(by_model(model, originals)[:, 0], expected, atol=1e-5)


@pytest.mark.data
def test_a_model_of_real_weights_agrees_with_both_feature_backends(weights_dir, breakhis, tmp_path):
    backbone = find_backbones(["mobilenet-0.25"], weights_dir).backbones[0]
    images = [decode(path) for path in sorted(breakhis.rglob("*.png"))[:90:30]]
    study, views = Study(images, tmp_path), views_of("dihedral", 2)
    heads = study.heads(backbone, "crop", 0)
    probability = ModelPool(BINARY.link).get(backbone, "crop", SIZE, views, heads).predict(np.stack(images), verbose=0)
    for feature_backend, tolerance in (("keras", 1e-5), ("openvino", 1e-3)):
        expected = study.expected(backbone, "crop", views, heads, feature_backend)
        np.testing.assert_allclose(probability[:, 0], expected, atol=tolerance)


# -- networks that were trained themselves -----------------------------------------------------------------------------


def trained_members(program, n_members, factor=60):
    """Members that differ in their weights and heads, whose kernels are larger by a factor than at the start."""
    random = np.random.default_rng(2)
    for seed in range(n_members):
        member = start_of(program, seed)
        weights = [
            weight + random.normal(0, 0.05 * np.abs(weight).mean(), weight.shape).astype(np.float32)
            for weight in member.weights
        ]
        yield ModelWeights(weights, [factor * member.head[0], *member.head[1:]])


@pytest.mark.parametrize(
    ("name", "n_views", "factor"),
    [("cnn_program", 1, 60), ("own_program", 2, 6), pytest.param("mobilenet_program", 2, 60, marks=pytest.mark.slow)],
)
def test_an_ensemble_gives_the_mean_of_what_its_members_were_scored_with(
    name, n_views, factor, originals, elsewhere, tmp_path, request
):
    """Saved, and loaded where bhsearch was never imported."""
    program = request.getfixturevalue(name)
    backbone, size, hidden = program.spec.backbone, program.spec.size, program.spec.hidden_units
    members = list(trained_members(program, 2, factor))
    resized = np.concatenate([make_resize("crop", size).apply(image) for image in originals])
    pixels, rows = DevicePixels(pixels_of(resized, tmp_path), 1 << 30), np.arange(len(originals))
    logits = np.stack(
        [
            predict(program, pixels, program.inference_state(program.initial_state(member)), rows, n_views)
            for member in members
        ]
    )
    by_member = 1 / (1 + np.exp(-logits.astype(np.float64)))  # member, view, image
    assert by_member.mean(axis=1).std(axis=0).max() > 0.01
    assert np.ptp(by_member.mean(axis=(0, 1))) > 0.001
    views = views_of("dihedral", n_views) if n_views > 1 else (IDENTITY,)
    kept = members_of(arrays_of(members), len(members))
    model = ensemble(backbone, "crop", size, views, hidden, kept, link=BINARY.link)
    assert model.inputs[0].dtype == "uint8"
    found = elsewhere.predict(model, *(image[None] for image in originals[:2]))
    np.testing.assert_allclose(found[:, 0], by_member.mean(axis=(0, 1))[:2], atol=1e-5)
    batch = np.stack([original[:30, :45] for original in originals])
    np.testing.assert_allclose(model.predict(batch, verbose=0), by_model(model, batch), atol=1e-5)


def test_members_come_back_from_their_arrays_in_order(cnn_program):
    members = list(trained_members(cnn_program, 11))
    arrays = dict(sorted(arrays_of(members).items(), reverse=True))  # whatever order a file gives them in
    back = members_of(arrays, len(members))
    assert all(same(one, other) for one, other in zip(members, back, strict=True))
    assert not same(members[1], back[10])
