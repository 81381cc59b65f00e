"""Position embeddings are resampled as Pillow (antialiased) and OpenCV (plain) resample the same numbers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from bhsearch.models.backbones.encoders.positions import cubic_weights, resample

SIDES = ((4, 6), (5, 4), (16, 7), (7, 16), (3, 3))


def grid_of(side: int) -> np.ndarray:
    return np.random.default_rng(side).normal(0, 1, (side, side, 3)).astype(np.float32)


@pytest.mark.parametrize(("before", "after"), SIDES)
def test_antialiased_as_pillow(before, after):
    grid = grid_of(before)
    planes = [Image.fromarray(grid[..., k]).resize((after, after), Image.Resampling.BICUBIC) for k in range(3)]
    np.testing.assert_allclose(resample(grid, after, True), np.stack(planes, axis=-1), atol=1e-5)


@pytest.mark.parametrize(("before", "after"), SIDES)
def test_plain_as_opencv(before, after):
    grid = grid_of(before)
    expected = cv2.resize(grid, (after, after), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(resample(grid, after, False), expected, atol=1e-5)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("before", "after"), SIDES)
def test_a_constant_stays_constant(before, after, antialias):
    np.testing.assert_allclose(cubic_weights(before, after, antialias).sum(axis=1), 1.0)


def test_the_own_size_changes_nothing():
    grid = grid_of(5)
    assert resample(grid, 5, True) is grid
