from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bhsearch.reporting.figures.thumbnails import encode_image, overlay


def read(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_a_png_holds_the_very_pixels(pixels):
    np.testing.assert_array_equal(read(encode_image(pixels)), pixels)


def test_a_square_is_cut_from_the_middle():
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 10:50] = 200
    assert read(encode_image(pixels, side=20)).shape == (20, 20, 3)
    assert read(encode_image(pixels, side=20)).min() > 180
    assert read(encode_image(np.ascontiguousarray(pixels.transpose(1, 0, 2)), side=20)).min() > 180


def test_a_jpeg_is_close_to_its_pixels():
    pixels = np.tile(np.arange(40, dtype=np.uint8)[:, None, None] * 5, (1, 60, 3))
    file = encode_image(pixels, lossless=False)
    assert file.startswith(b"\xff\xd8\xff")
    assert np.abs(read(file).astype(int) - pixels).mean() < 2


def test_tissue_is_grey_where_nothing_counts_and_yellow_where_most_does(pixels):
    heat = np.zeros((2, 2), np.float32)
    heat[:, 1] = 1.0
    laid = overlay(pixels, heat).astype(int)
    assert laid.shape == pixels.shape
    cold, hot = laid[:, :10], laid[:, -10:]
    assert np.ptp(cold, axis=2).max() == 0
    assert (hot[..., 0] - hot[..., 2])[hot[..., 0] > 50].min() > 25
    assert np.corrcoef(hot[..., 0].ravel(), pixels[:, -10:].mean(axis=2).ravel())[0, 1] > 0.8


@pytest.mark.parametrize(
    ("heat", "message"),
    [
        (np.zeros(4), r"must be two-dimensional, but got shape \(4,\)"),
        (np.array([[0, 1.5], [0.5, 1]]), "must be from 0 to 1, but got 1.5"),
        (np.array([[0, 0.5], [-0.25, 1]]), "must be from 0 to 1, but got -0.25"),
        (np.array([[0, 0.5], [np.nan, 1]]), "must be from 0 to 1, but got nan"),
    ],
)
def test_a_map_of_another_shape_or_range_is_refused_with_the_value(pixels, heat, message):
    with pytest.raises(ValueError, match=message):
        overlay(pixels, heat)
