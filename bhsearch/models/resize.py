"""Resize of images, used as the first step of every deployed network and to fill the pixel cache.

Resized images are rounded to integers, so that a deployed network and the pixel cache give equal values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from bhsearch.data.arrays import Pixels
from bhsearch.data.images.pixel_cache import Resize
from bhsearch.errors import SettingsError
from bhsearch.models import backend

MODES = ("crop", "squash", "tiles")
TILE_GRID = (2, 3)  # rows and columns; close to the aspect ratio of BreakHis images (460 x 700 pixels)


def grid_of(mode: str) -> tuple[int, int]:
    """Return the numbers of rows and columns of tiles into which a resize mode cuts an image."""
    return TILE_GRID if mode == "tiles" else (1, 1)


def resize_images(images: Any, mode: str, size: int) -> Any:
    """Resize a batch of images.

    Args:
        images: RGB in 0..255 of any dtype, possibly symbolic. Shape (batch, height, width, 3).
        mode: `crop` keeps the aspect ratio and crops the margins, `squash` changes the aspect ratio, and `tiles` cuts
            the image into a fixed grid of tiles.
        size: Side of the resized images or tiles in pixels.

    Returns:
        Integers in 0..255 as float32, with the tiles of an image one after another. Shape
        (batch * n_tiles, size, size, 3).
    """
    from keras import ops

    rows, columns = grid_of(mode)
    resized = ops.image.resize(
        ops.cast(images, "float32"),
        (rows * size, columns * size),
        interpolation="bilinear",
        antialias=True,  # most images are reduced by a factor above 2, at which nuclei would show aliasing
        crop_to_aspect_ratio=mode != "squash",
    )
    resized = ops.clip(ops.round(resized), 0.0, 255.0)
    if (rows, columns) == (1, 1):
        return resized
    cut = ops.reshape(resized, (-1, rows, size, columns, size, 3))
    return ops.reshape(ops.transpose(cut, (0, 1, 3, 2, 4, 5)), (-1, size, size, 3))


def make_resize(mode: str, size: int) -> Resize:
    """Return the resize step for the pixel cache.

    Args:
        mode: Resize mode, see `resize_images`.
        size: Side of the resized images in pixels, 32 to 1024.

    Raises:
        SettingsError: If the mode is unknown or the size is out of range.
    """
    if mode not in MODES:
        raise SettingsError(f"--resize must be one of {', '.join(MODES)}, but got {mode!r}.")
    if not 32 <= size <= 1024:
        raise SettingsError(f"The image size must be from 32 to 1024 pixels, but got {size}.")
    rows, columns = grid_of(mode)

    @cache
    def step() -> Callable[[Pixels], Any]:
        return backend.compiled(lambda images: resize_images(images, mode, size), any_shape=True)

    def apply(image: Pixels) -> Pixels:
        return np.asarray(step()(image[None])).astype(np.uint8)

    return Resize(f"{mode}-{size}-bilinear-antialias-v1", (rows * columns, size, size, 3), apply)
