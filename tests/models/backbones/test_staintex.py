from __future__ import annotations

import numpy as np
import pytest

from bhsearch.errors import BackboneError
from bhsearch.models.augmentation.cached_views import apply_view, views_of
from bhsearch.models.augmentation.policies import N_VIEWS
from bhsearch.models.backbones import staintex
from bhsearch.models.backbones.staintex import SIZES, gabor_bank
from tests.models.conftest import tissue

N_STAIN_NUMBERS = 19  # means and spreads of three densities and three colours, and seven shares
WHITE = [255, 255, 255]
PER_LEVEL = 12  # two stains, three maps, mean and spread of each
SHAPE = (-1, 2, SIZES["staintex-l"][1], PER_LEVEL // 2)  # image, stain, level, number


@pytest.fixture(scope="module")
def network():
    return staintex.build("staintex-l", 128)


def features(network, images):
    return np.asarray(network(np.asarray(images, np.float32), training=False))


def texture(network, images):
    return features(network, images)[:, N_STAIN_NUMBERS:]


def test_flat_images_have_no_texture_whatever_their_colour(network):
    flat = np.ones((4, 128, 128, 3)) * np.array([WHITE, [0, 0, 0], [150, 60, 140], [230, 170, 200]])[:, None, None]
    numbers = texture(network, flat)
    np.testing.assert_allclose(numbers, np.broadcast_to(numbers[0], numbers.shape), atol=0.05)
    by_level = (texture(network, tissue(1, 128)) - numbers[:1]).reshape(SHAPE)
    assert (by_level[:, :, :3] > 0.3).all()
    assert (by_level[:, :, 3] > -1e-3).all()  # one place is left there, and its spread is nothing


def test_features_do_not_depend_on_how_the_slide_lay(network):
    # But for the pixels that the stride skips, which turn with the image: they count more the fewer a level has.
    images = tissue(6, 128).astype(np.float32)
    still = features(network, images)
    for view in views_of("dihedral", N_VIEWS)[1:]:
        moved = np.abs(features(network, np.asarray(apply_view(images, view))) - still)
        assert moved[:, :N_STAIN_NUMBERS].max() < 1e-4
        by_level = moved[:, N_STAIN_NUMBERS:].reshape(SHAPE).max(axis=(0, 1, 3))
        assert (by_level < (0.05, 0.2, 0.8, 1.0)).all()


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("size", [30, 32, 59, 64, 120, 224])
def test_the_number_of_features_is_known_without_building(name, size):
    n_features = staintex.build(name, size).output_shape[1]
    backbone = staintex.KIND.find(name, None)
    assert backbone.describe(size).n_features == n_features <= backbone.most_features
    if size == 224:
        assert n_features == backbone.most_features


@pytest.mark.parametrize(("name", "least"), [("staintex-s", 30), ("staintex-l", 15)])
def test_images_into_which_no_filter_fits_are_refused(name, least):
    backbone = staintex.KIND.find(name, None)
    backbone.check_size(least)
    assert backbone.build(least).output_shape[1] == backbone.describe(least - 1).n_features
    with pytest.raises(BackboneError, match=f"at least {least} pixels, but --image-size is {least - 1}"):
        backbone.check_size(least - 1)


def test_more_nuclei_are_more_haematoxylin_and_more_texture(network):
    densities = (0.05, 0.2, 0.5)
    rows = np.stack([features(network, tissue(4, 128, density=density)).mean(axis=0) for density in densities])
    assert (np.diff(rows[:, 0]) > 0.02).all()  # mean density of haematoxylin
    shares = rows[:, 12:16]
    assert (np.diff(shares, axis=0)[:, :3] > 0).all()
    sparse, dense = (texture(network, tissue(4, 128, density=density)).mean() for density in (0.01, 0.2))
    assert dense > sparse + 0.2


def test_a_fine_pattern_shows_on_the_first_level_and_a_coarse_one_on_a_later(network):
    x = np.arange(128)
    fine, coarse = (128 + 80 * np.sin(2 * np.pi * x / wavelength) for wavelength in (5, 20))
    rows = texture(network, np.stack([np.broadcast_to(wave[None, :, None], (128, 128, 3)) for wave in (fine, coarse)]))
    energy = rows.reshape(SHAPE)[..., 0]
    assert (energy[0].argmax(axis=-1) == 0).all()
    assert (energy[1].argmax(axis=-1) == 2).all()


def test_filters_ignore_a_constant_and_have_the_size_that_is_said():
    bank = gabor_bank()
    assert bank.shape == (staintex.KERNEL, staintex.KERNEL, 1, 2 * staintex.N_ORIENTATIONS)
    assert bank.dtype == np.float32
    np.testing.assert_allclose(bank.sum(axis=(0, 1)), 0, atol=1e-6)


@pytest.mark.parametrize("name", SIZES)
def test_each_size_has_its_levels(name):
    shape = staintex.build(name, 224).output_shape
    assert shape == (None, N_STAIN_NUMBERS + PER_LEVEL * SIZES[name][1])


@pytest.mark.parametrize(("name", "expected"), [("staintex-s", (1, 2, 3)), ("staintex-l", (2, 3, 4))])
def test_small_images_have_fewer_levels(name, expected):
    n_features = [staintex.build(name, size).output_shape[-1] for size in (32, 64, 120)]
    assert n_features == [N_STAIN_NUMBERS + PER_LEVEL * levels for levels in expected]


def test_the_small_bank_sees_images_shrunk_by_two():
    # Twice as large and half as fine, so that both see the same nuclei.
    images = tissue(2, 64).astype(np.float32)
    doubled = images.repeat(2, axis=1).repeat(2, axis=2)
    small = features(staintex.build("staintex-s", 128), doubled)
    large = features(staintex.build("staintex-l", 64), images)
    np.testing.assert_allclose(small, large, atol=1e-5)


def test_nothing_of_it_is_trained(network):
    assert network.trainable_weights == []


def test_features_are_finite_for_extreme_images(network):
    board = 255 * (np.indices((128, 128)).sum(axis=0) % 2)
    extremes = np.stack([np.zeros((128, 128)), np.full((128, 128), 255), board])
    assert np.isfinite(features(network, extremes[..., None].repeat(3, axis=-1))).all()


def test_it_loads_where_bhsearch_was_never_imported(network, elsewhere):
    images = tissue(3, 128).astype(np.float32)
    np.testing.assert_array_equal(elsewhere.predict(network, images), features(network, images))
