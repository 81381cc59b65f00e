from __future__ import annotations

import numpy as np
import pytest

from bhsearch.errors import SettingsError
from bhsearch.models.augmentation import policies
from bhsearch.models.augmentation.cached_views import apply_view, views_of
from bhsearch.models.augmentation.policies import IDENTITY, N_VIEWS, VIEW_POLICIES
from bhsearch.models.augmentation.stain import HE_TO_RGB, RGB_TO_HE, optical_density
from tests.models.conftest import tissue

AUGMENTING = tuple(policy for policy in VIEW_POLICIES if policy != "none")
EVERY = tuple(dict.fromkeys(view for policy in VIEW_POLICIES for view in views_of(policy, N_VIEWS)))


@pytest.fixture(scope="module")
def images():
    return tissue(3, 40).astype(np.float32)


def seen(images, view):
    return np.asarray(apply_view(images, view))


def stained(haematoxylin, eosin):
    """RGB of tissue with given densities of the two stains, and no residual."""
    density = np.stack([haematoxylin, eosin, np.zeros_like(haematoxylin)], axis=-1) @ HE_TO_RGB.astype(np.float64)
    return (256 * np.exp(-density) - 1).astype(np.float32)


def test_the_first_view_of_every_policy_is_the_image_itself(images):
    for policy in VIEW_POLICIES:
        assert views_of(policy, 3)[0] == IDENTITY
    np.testing.assert_array_equal(seen(images, IDENTITY), images)


@pytest.mark.parametrize("policy", AUGMENTING)
def test_fewer_views_are_the_first_of_more(policy):
    # So that a trial with more views only adds to what the cache has.
    most = views_of(policy, N_VIEWS)
    assert len(set(most)) == N_VIEWS
    for n in range(1, N_VIEWS + 1):
        assert views_of(policy, n) == most[:n]


def test_no_augmentation_is_one_view_whatever_the_number():
    assert {views_of("none", n) for n in range(1, N_VIEWS + 1)} == {(IDENTITY,)}


def test_dihedral_stain_takes_the_views_of_both_in_turn():
    # So that what the cache has for the two serves the third.
    names = views_of("dihedral-stain", N_VIEWS)[1:]
    for policy in ("dihedral", "stain"):
        own = [name for name in names if name.startswith(policy)]
        assert len(own) >= 3
        assert tuple(own) == views_of(policy, 1 + len(own))[1:]


@pytest.mark.parametrize("view", EVERY)
def test_a_view_is_an_image_of_the_same_shape_and_another_one(images, view):
    result = seen(images, view)
    assert result.shape == images.shape
    assert result.dtype == np.float32
    assert result.min() >= 0
    assert result.max() <= 255
    assert (view == IDENTITY) == np.array_equal(result, images)


@pytest.mark.parametrize("view", EVERY)
def test_extreme_images_stay_in_range(view):
    extremes = np.stack([np.full((32, 32, 3), value, np.float32) for value in (0, 255)])
    extremes = np.concatenate([extremes, np.random.default_rng(0).choice([0.0, 255.0], (2, 32, 32, 3))]).astype(
        np.float32
    )
    result = seen(extremes, view)
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 255 + 1e-4


@pytest.mark.parametrize("view", EVERY)
def test_a_view_of_an_image_does_not_depend_on_its_neighbours(images, view):
    np.testing.assert_array_equal(seen(images[1:2], view)[0], seen(images, view)[1])


@pytest.mark.parametrize("policy", AUGMENTING)
def test_the_views_of_a_policy_differ_from_one_another(images, policy):
    results = [seen(images, view) for view in views_of(policy, N_VIEWS)]
    for one in range(N_VIEWS):
        for other in range(one):
            assert not np.array_equal(results[one], results[other]), (one, other)


def test_inside_a_model_a_view_is_what_it_is_outside(images):
    import keras

    inputs = keras.Input((40, 40, 3))
    network = keras.Model(inputs, [apply_view(inputs, view) for view in EVERY])
    for view, inside in zip(EVERY, network.predict(images, verbose=0), strict=True):
        np.testing.assert_allclose(inside, seen(images, view), atol=1e-3, err_msg=view)


@pytest.mark.parametrize("size", [40, 57])
@pytest.mark.parametrize("view", EVERY)
def test_numpy_and_keras_compute_the_same_view(view, size):
    from keras import ops

    images = tissue(2, size).astype(np.float32)
    by_numpy = apply_view(images, view)
    assert isinstance(by_numpy, np.ndarray)
    assert by_numpy.dtype == np.float32
    np.testing.assert_allclose(by_numpy, np.asarray(apply_view(ops.convert_to_tensor(images), view)), atol=1e-3)


def test_dihedral_views_are_the_symmetries_of_the_square(images):
    # All eight, each once, and exact: no pixel is interpolated.
    symmetries = [np.rot90(turned, k, axes=(1, 2)) for turned in (images, images[:, :, ::-1]) for k in range(4)]
    results = [seen(images, view) for view in views_of("dihedral", N_VIEWS)]
    matches = [[np.array_equal(result, symmetry) for symmetry in symmetries] for result in results]
    assert (np.array(matches).sum(axis=0) == 1).all()
    assert (np.array(matches).sum(axis=1) == 1).all()


@pytest.mark.parametrize("k", range(1, N_VIEWS))
def test_a_stain_view_scales_each_stain_by_its_own_factor(k):
    haematoxylin, eosin = (
        grid.astype(np.float64) for grid in np.meshgrid(np.linspace(0.2, 0.7, 8), np.linspace(0.2, 0.5, 8))
    )
    result = seen(stained(haematoxylin, eosin)[None], f"stain{k}")
    density = np.asarray(optical_density(result))[0] @ RGB_TO_HE
    by_haematoxylin, by_eosin = policies.STAIN_VIEWS[k - 1]
    np.testing.assert_allclose(density[..., 0], haematoxylin * by_haematoxylin, atol=2e-3)
    np.testing.assert_allclose(density[..., 1], eosin * by_eosin, atol=2e-3)
    np.testing.assert_allclose(density[..., 2], 0, atol=2e-3)


def test_stain_views_leave_glass_white():
    white = np.full((1, 16, 16, 3), 255, np.float32)
    for view in views_of("stain", N_VIEWS):
        np.testing.assert_allclose(seen(white, view), white, atol=1e-3)


def test_optical_density_is_nothing_for_white_and_greatest_for_black():
    assert float(optical_density(np.float32(255))) == 0
    assert float(optical_density(np.float32(0))) == pytest.approx(np.log(256))


def test_the_stains_come_apart_and_together_again():
    np.testing.assert_allclose(HE_TO_RGB @ RGB_TO_HE, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(HE_TO_RGB, axis=1), 1, atol=1e-6)


def test_colour_views_keep_grey_grey():
    grey = np.random.default_rng(0).uniform(30, 220, (2, 16, 16, 1)).astype(np.float32).repeat(3, axis=-1)
    for view in views_of("colour", N_VIEWS):
        assert np.ptp(seen(grey, view), axis=-1).max() < 1e-2


def test_zoom_views_magnify():
    y, x = np.mgrid[:64, :64]
    image = (
        np.where((y - 31.5) ** 2 + (x - 31.5) ** 2 < 10**2, 0.0, 255.0)
        .astype(np.float32)[None, ..., None]
        .repeat(3, axis=-1)
    )
    dark = int((image < 128).sum())
    for (share, _, _), view in zip(policies.ZOOM_VIEWS, views_of("zoom", N_VIEWS)[1:], strict=True):
        assert (seen(image, view) < 128).sum() == pytest.approx(dark / share**2, rel=0.1)


def test_an_unknown_policy_lists_the_known():
    with pytest.raises(SettingsError, match=r"none, dihedral, stain.*'rotate'"):
        views_of("rotate", 4)


@pytest.mark.parametrize("n_views", [0, -1, N_VIEWS + 1])
def test_a_number_of_views_out_of_range_is_refused(n_views):
    with pytest.raises(SettingsError, match=f"1 to {N_VIEWS}.*{n_views}"):
        views_of("dihedral", n_views)
