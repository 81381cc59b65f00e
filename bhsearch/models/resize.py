"""Resize of images: the first step of every network, and the step that fills the pixel cache.

The result is rounded, so that the network's own resize and the cached pixels are equal integers.
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
TILE_GRID = (2, 3)  # rows and columns; close to the aspect ratio of a 460 x 700 image of BreakHis


def grid_of(mode: str) -> tuple[int, int]:
    """Return the rows and columns of tiles into which an image is cut."""
    return TILE_GRID if mode == "tiles" else (1, 1)


def resize_images(images: Any, mode: str, size: int) -> Any:
    """Resize a batch, symbolic or not.

    Args:
        images: RGB in 0..255, any dtype. Shape (batch, height, width, 3).
        mode: `crop` keeps the aspect ratio and cuts the margins, `squash` changes it, `tiles` cuts a fixed grid.
        size: Side of the result in pixels.

    Returns:
        float32 whole numbers in 0..255. Shape (batch * n_tiles, size, size, 3), the tiles of an image consecutively.
    """
    from keras import ops

    rows, columns = grid_of(mode)
    resized = ops.image.resize(
        ops.cast(images, "float32"),
        (rows * size, columns * size),
        interpolation="bilinear",
        antialias=True,  # most histology is shrunk by more than two: without it, nuclei alias
        crop_to_aspect_ratio=mode != "squash",
    )
    resized = ops.clip(ops.round(resized), 0.0, 255.0)
    if (rows, columns) == (1, 1):
        return resized
    cut = ops.reshape(resized, (-1, rows, size, columns, size, 3))
    return ops.reshape(ops.transpose(cut, (0, 1, 3, 2, 4, 5)), (-1, size, size, 3))


def make_resize(mode: str, size: int) -> Resize:
    """Return the resize step of one mode and size for the pixel cache.

    Raises:
        SettingsError: If the mode is unknown or the size is out of range.
    """
    if mode not in MODES:
        raise SettingsError(f"The resize must be one of {', '.join(MODES)}, but got {mode!r}.")
    if not 32 <= size <= 1024:
        raise SettingsError(f"The image size must be 32 to 1024 pixels, but got {size}.")
    rows, columns = grid_of(mode)

    @cache
    def step() -> Callable[[Pixels], Any]:
        return backend.compiled(lambda images: resize_images(images, mode, size), any_shape=True)

    def apply(image: Pixels) -> Pixels:
        return np.asarray(step()(image[None])).astype(np.uint8)

    return Resize(f"{mode}-{size}-bilinear-antialias-v1", (rows * columns, size, size, 3), apply)
