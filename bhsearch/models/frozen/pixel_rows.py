"""Sources of the pixels of which features are computed."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Pixels
from bhsearch.runtime import cache


class PixelSource(Protocol):
    """Resized pixels of all images; see `PixelCache` and `ChangedPixels`."""

    @property
    def key(self) -> str:
        """Digest of the images and of all steps that led to the pixels."""

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Shape of all pixels, (n_images, n_tiles, size, size, 3)."""

    @property
    def is_stored(self) -> bool:
        """Whether the pixels are read from a file, in a time that depends on their shape only."""

    def read(self, start: int, stop: int) -> Pixels:
        """Return a range of rows. Shape (n_rows, n_tiles, size, size, 3)."""


class PixelRows:
    """Some rows of a pixel source, as a pixel source.

    Args:
        pixels: Source of all rows.
        rows: Numbers of the rows to keep. Shape (n_kept,).

    Attributes:
        key, shape, is_stored: See `PixelSource`.
    """

    def __init__(self, pixels: PixelSource, rows: npt.NDArray[np.intp]) -> None:
        self._pixels, self._rows = pixels, rows
        self.key = cache.cache_key({"pixels": pixels.key, "rows": rows.tolist()})
        self.shape = (len(rows), *pixels.shape[1:])
        self.is_stored = pixels.is_stored

    def read(self, start: int, stop: int) -> Pixels:
        """Return a range of the kept rows. Shape (n_rows, n_tiles, size, size, 3)."""
        return np.concatenate([self._pixels.read(row, row + 1) for row in self._rows[start:stop].tolist()])
