"""Resize of images, used as the first step of every deployed network and to fill the pixel cache.

Resized images are rounded to integers, so that a deployed network and the pixel cache give equal values. The pixel
cache is filled without a framework, by the same operations in the same order as TensorFlow's kernel
`ScaleAndTranslate`, for one image at a time, which takes a seventh of the processor time.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from bhsearch.data.arrays import Float32Array, Pixels
from bhsearch.data.images.pixel_cache import Resize
from bhsearch.errors import SettingsError

MODES = ("crop", "squash", "tiles")
LEAST_SIZE, MOST_SIZE = 32, 1024  # side of resized images in pixels
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
    if not LEAST_SIZE <= size <= MOST_SIZE:
        raise SettingsError(f"The image size must be from {LEAST_SIZE} to {MOST_SIZE} pixels, but got {size}.")
    rows, columns = grid_of(mode)

    def apply(image: Pixels) -> Pixels:
        kept = image if mode == "squash" else _cropped(image, rows, columns)
        resized = _resized(kept, rows * size, columns * size)
        cut = resized.reshape(rows, size, columns, size, 3).swapaxes(1, 2)
        return np.ascontiguousarray(cut.reshape(-1, size, size, 3))

    return Resize(f"{mode}-{size}-bilinear-antialias-v1", (rows * columns, size, size, 3), apply)


def _cropped(image: Pixels, rows: int, columns: int) -> Pixels:
    """Crop the margins of an image to the aspect ratio of a grid of squares, as Keras does."""
    height, width = image.shape[:2]
    kept_height = max(min(height, int(np.float32(width * rows) / np.float32(columns))), 1)
    kept_width = max(min(width, int(np.float32(height * columns) / np.float32(rows))), 1)
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    return image[top : top + kept_height, left : left + kept_width]


def _resized(image: Pixels, height: int, width: int) -> Pixels:
    """Resize an image like `keras.ops.image.resize` with antialiasing on TensorFlow. Shape (height, width, 3)."""
    n_rows, n_columns = image.shape[:2]
    lines = image.reshape(n_rows, -1).astype(np.float32)
    scaled = np.ascontiguousarray((_matrix(n_rows, height) @ lines).T)  # shape (3 * n_columns, height)
    resized = _matrix(n_columns, width, 3) @ scaled
    whole = np.rint(resized, out=resized).astype(np.uint8)  # in 0..255, since each row of a matrix sums to 1
    return np.ascontiguousarray(whole.T).reshape(height, width, 3)


@lru_cache(maxsize=64)
def _matrix(n_in: int, n_out: int, n_channels: int = 1) -> Any:
    """Return the resize matrix of one axis as a sparse matrix, for interleaved channels.

    A product with the matrix adds up the input pixels in the same order as TensorFlow. Shape
    (n_out * n_channels, n_in * n_channels).
    """
    from scipy import sparse  # imported late, because images that are cached need no resize

    return sparse.csr_array(sparse.kron(resize_weights(n_in, n_out), sparse.identity(n_channels, np.float32)))


def resize_weights(n_in: int, n_out: int) -> Float32Array:
    """Compute the weights of the input pixels for each output pixel of one axis.

    The kernel is a triangle, which is as wide as the distance of the output pixels if these are fewer.

    Args:
        n_in: Number of input pixels.
        n_out: Number of output pixels.

    Returns:
        Weights; each row sums to 1. Shape (n_out, n_in).

    Source:
        TensorFlow, `scale_and_translate_op.cc`. All values are rounded to float32 where they are rounded there;
        otherwise some pixels differ by one grey level.
    """
    one, half = np.float32(1), np.float32(0.5)
    ratio = one / (np.float32(n_out) / np.float32(n_in))
    centre = (np.arange(n_out, dtype=np.float32) + half) * ratio
    distance = np.arange(n_in, dtype=np.float32) + half - centre[:, None]
    triangle: Float32Array = np.maximum(one - np.abs(distance * (one / max(ratio, one))), np.float32(0))
    total = np.cumsum(triangle, axis=1)[:, -1:]  # `np.sum` adds up in another order
    triangle *= one / total
    return triangle
