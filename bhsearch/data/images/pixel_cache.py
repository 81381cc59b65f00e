"""The pixel cache: an array on disk with all development images of a data set, decoded and resized once, as uint8."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Pixels
from bhsearch.data.dataset import Dataset
from bhsearch.data.images.decode import decode_for
from bhsearch.errors import DataError
from bhsearch.runtime import cache

Progress = Callable[[int, int], None]
_FILE = "pixels.u8"


@dataclass(frozen=True)
class Resize:
    """Resize step that is applied to each image before it is stored in the cache.

    Deployed networks begin with the same step; see `bhsearch.models.resize`.

    Attributes:
        name: Name of the step, which is part of the keys of all cache entries that depend on resized pixels.
        shape: Shape of one resized image, (n_tiles, size, size, 3).
        apply: Function from a uint8 image of any size, shape (height, width, 3), to a uint8 array of shape `shape`.
    """

    name: str
    shape: tuple[int, int, int, int]
    apply: Callable[[Pixels], Pixels]


@dataclass(frozen=True, eq=False)
class PixelCache:
    """Resized pixels of all images of a data set, in a file.

    Attributes:
        key: Digest of the images and the resize step.
        file: File of the array; rows are in the order of the data set.
        shape: Shape of the array, (n_images, n_tiles, size, size, 3).
        is_stored: Whether the pixels are in a file; always True.
    """

    key: str
    file: Path
    shape: tuple[int, int, int, int, int]
    is_stored: bool = True

    def read(self, start: int, stop: int) -> Pixels:
        """Read a range of rows into memory. Shape (n_rows, n_tiles, size, size, 3).

        A memory map is not used, since its pages would count as memory of the process.
        """
        n_rows = min(stop, self.shape[0]) - start
        n_values = int(np.prod(self.shape[1:]))
        rows = np.fromfile(self.file, np.uint8, n_rows * n_values, offset=start * n_values)
        return rows.reshape(n_rows, *self.shape[1:])

    def rows(self, wanted: npt.NDArray[np.int64]) -> Pixels:
        """Read rows in any order from a temporary memory map. Shape (n_wanted, n_tiles, size, size, 3)."""
        return np.memmap(self.file, np.uint8, "r", shape=self.shape)[wanted]


def pixel_cache(dataset: Dataset, resize: Resize, progress: Progress | None = None) -> PixelCache:
    """Return the resized pixels of a data set; if they are not cached, decode and resize every image.

    Args:
        dataset: Data set with the development images only.
        resize: Resize step.
        progress: Called with the numbers of images done and in total.

    Raises:
        DataError: If an image cannot be decoded.
        PlaceError: If the cache cannot be written or the disk is full.
    """
    facts, shape = _cache_facts(dataset, resize), (len(dataset), *resize.shape)

    def fill(folder: Path) -> None:
        _allocate(folder / _FILE, int(np.prod(shape)))
        array = np.memmap(folder / _FILE, np.uint8, "r+", shape=shape)
        paths = dataset.paths()

        def one(row: int) -> None:
            try:
                array[row] = decode_for(paths[row], resize.apply)
            except DataError as error:
                if paths[row].exists():
                    raise
                raise DataError(
                    f"Images must stay in their folder while a study runs, but {paths[row]} disappeared. Restore it, "
                    "and run the command again."
                ) from error

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done, _ in enumerate(pool.map(one, range(len(paths))), start=1):
                if progress is not None:
                    progress(done, len(paths))
        array.flush()

    cache.get_or_create("pixels", facts, fill)
    return PixelCache(cache.cache_key(facts), pixel_file(dataset, resize), shape)


def pixel_file(dataset: Dataset, resize: Resize) -> Path:
    """Return the file that `pixel_cache` uses for a data set, which need not exist."""
    return cache.folder_of("pixels", _cache_facts(dataset, resize)) / _FILE


def _cache_facts(dataset: Dataset, resize: Resize) -> dict[str, Any]:
    digests = list(dataset.table["pixels_digest"])
    return {"resize": resize.name, "images": cache.cache_key({"pixels": digests}), "version": 1}


def _allocate(file: Path, n_bytes: int) -> None:
    """Create a file with reserved disk space, since writing to a memory map on a full disk kills the process."""
    with file.open("wb") as stream:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, n_bytes)
        else:
            zeros = bytes(1 << 22)
            for start in range(0, n_bytes, len(zeros)):
                stream.write(zeros[: n_bytes - start])
