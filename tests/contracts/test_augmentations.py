"""The contract of augmentation policies, over the built-in ones and those of plugins."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.models.augmentation.base import AUGMENTATIONS, view_key
from bhsearch.models.augmentation.cached_views import apply_view, views_of
from bhsearch.models.augmentation.device_transforms import N_COLUMNS, augment, draw_augmentation
from bhsearch.models.augmentation.policies import FINETUNE_POLICIES, IDENTITY, VIEW_POLICIES

SIZE, N_VIEWS = 32, 4


def policies(regime, built_in):
    return [*built_in, *(name for name in AUGMENTATIONS if regime in AUGMENTATIONS.get(name).regimes)]


def images(n=3):
    return np.random.default_rng(0).integers(0, 256, (n, SIZE, SIZE, 3)).astype(np.float32)


@pytest.mark.parametrize("policy", policies("frozen", VIEW_POLICIES))
def test_views_begin_with_the_image_and_keep_shape_and_range(policy):
    names = views_of(policy, N_VIEWS)
    assert names[0] == IDENTITY
    assert names[:2] == views_of(policy, 2)
    assert len({view_key(name) for name in names}) == len(names)
    for name in names:
        seen = np.asarray(apply_view(images(), name))
        assert seen.shape == images().shape
        assert seen.min() >= 0
        assert seen.max() <= 255
        np.testing.assert_array_equal(seen, np.asarray(apply_view(images(), name)))  # always the same
        np.testing.assert_allclose(np.asarray(apply_view(images()[:1], name)), seen[:1], rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("policy", policies("frozen", VIEW_POLICIES))
def test_a_view_can_be_a_part_of_a_model_that_keras_alone_loads(policy, tmp_path):
    import keras

    view = views_of(policy, N_VIEWS)[-1]
    entry = keras.Input((SIZE, SIZE, 3))
    seen = apply_view(entry, view)
    network = keras.Model(entry, seen if seen is not entry else keras.layers.Identity()(entry))
    network.save(tmp_path / "view.keras")
    again = keras.saving.load_model(tmp_path / "view.keras", safe_mode=True)
    np.testing.assert_allclose(np.asarray(again(images())), np.asarray(apply_view(images(), view)), atol=1e-2)


@pytest.mark.parametrize("policy", policies("finetune", FINETUNE_POLICIES))
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_draws_are_parameters_of_the_device_and_follow_from_the_seed(policy, strength):
    first, again, other = (
        draw_augmentation(np.random.default_rng(seed), 8, policy, strength, SIZE) for seed in (0, 0, 1)
    )
    assert first.shape == (8, N_COLUMNS)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert policy == "none" or not np.array_equal(first, other)
    seen = np.asarray(augment(images(8), first))
    assert seen.shape == (8, SIZE, SIZE, 3)
    assert np.isfinite(seen).all()
