"""Pixels of images that are changed before they are resized, computed when they are read and not stored."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bhsearch.data.arrays import Pixels
from bhsearch.data.dataset import Dataset
from bhsearch.data.images.decode import decode_for
from bhsearch.data.images.pixel_cache import Resize
from bhsearch.runtime import cache


class ChangedPixels:
    """Resized pixels of changed images, with the reading interface of `PixelCache`.

    Nothing is stored, because a second copy of all pixels of a large data set may not fit on the disk.

    Args:
        dataset: Data set with the development images only.
        resize: Resize step.
        name: Name of the change, with every constant that it depends on.
        change: Function of a decoded RGB image and its case; returns an RGB image.
        by_case: Whether the change depends on the case.

    Attributes:
        key: Digest of the images, the change and the resize step.
        shape: Shape of all resized images, (n_images, n_tiles, size, size, 3).
        is_stored: Whether the pixels are in a file; always False.
    """

    is_stored = False

    def __init__(
        self, dataset: Dataset, resize: Resize, name: str, change: Callable[[Pixels, str], Pixels], by_case: bool
    ) -> None:
        self._paths, self._cases = dataset.paths(), [str(case) for case in dataset.column("case")]
        self._resize, self._change = resize, change
        self.shape = (len(dataset), *resize.shape)
        facts = {
            "resize": resize.name,
            "images": dataset.column("pixels_digest").tolist(),
            "change": name,
            "cases": self._cases if by_case else [],
            "version": 1,
        }
        self.key = cache.cache_key(facts)

    def read(self, start: int, stop: int) -> Pixels:
        """Decode, change and resize a range of images. Shape (n_rows, n_tiles, size, size, 3).

        Raises:
            DataError: If an image cannot be decoded.
        """
        rows = range(start, min(stop, len(self._paths)))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.stack(list(pool.map(self._one, rows)))

    def _one(self, row: int) -> Pixels:
        return decode_for(self._paths[row], lambda image: self._resize.apply(self._change(image, self._cases[row])))
