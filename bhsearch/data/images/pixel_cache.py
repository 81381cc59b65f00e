"""The pixel cache: each development image decoded and resized once, stored as one uint8 array on disk."""

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
from bhsearch.runtime import cache

Progress = Callable[[int, int], None]
_FILE = "pixels.u8"


@dataclass(frozen=True)
class Resize:
    """Resize step that fills the cache: the first step of every network, passed in by `models`.

    Attributes:
        name: Name of the step; part of the cache keys of everything computed from its output.
        shape: Shape of one resized image, (n_tiles, size, size, 3).
        apply: Function from uint8 (height, width, 3) of any size to uint8 of `shape`.
    """

    name: str
    shape: tuple[int, int, int, int]
    apply: Callable[[Pixels], Pixels]


@dataclass(frozen=True, eq=False)
class PixelCache:
    """Resized pixels of a data set.

    Attributes:
        key: Digest of the images and the resize step.
        file: Location of the array, with rows in the order of the data set.
        shape: (n_images, n_tiles, size, size, 3).
    """

    key: str
    file: Path
    shape: tuple[int, int, int, int, int]

    def read(self, start: int, stop: int) -> Pixels:
        """Read a range of rows into memory, without a memory map that would count as the process's memory."""
        n_rows = min(stop, self.shape[0]) - start
        n_values = int(np.prod(self.shape[1:]))
        rows = np.fromfile(self.file, np.uint8, n_rows * n_values, offset=start * n_values)
        return rows.reshape(n_rows, *self.shape[1:])

    def rows(self, wanted: npt.NDArray[np.int64]) -> Pixels:
        """Read rows in any order from a temporary memory map. Shape (n_wanted, n_tiles, size, size, 3)."""
        return np.memmap(self.file, np.uint8, "r", shape=self.shape)[wanted]


def pixel_cache(dataset: Dataset, resize: Resize, progress: Progress | None = None) -> PixelCache:
    """Return the resized pixels of a data set, decoding and resizing every image unless they are cached.

    Args:
        dataset: Images; development rows only.
        resize: First step of the networks.
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
            array[row] = decode_for(paths[row], resize.apply)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done, _ in enumerate(pool.map(one, range(len(paths))), start=1):
                if progress is not None:
                    progress(done, len(paths))
        array.flush()

    cache.get_or_create("pixels", facts, fill)
    return PixelCache(cache.cache_key(facts), pixel_file(dataset, resize), shape)


def pixel_file(dataset: Dataset, resize: Resize) -> Path:
    """Return the location of the array of `pixel_cache`, whether it exists or not."""
    return cache.folder_of("pixels", _cache_facts(dataset, resize)) / _FILE


def _cache_facts(dataset: Dataset, resize: Resize) -> dict[str, Any]:
    digests = list(dataset.table["pixels_digest"])
    return {"resize": resize.name, "images": cache.cache_key({"pixels": digests}), "version": 1}


def _allocate(file: Path, n_bytes: int) -> None:
    """Reserve disk space first: writing to a memory map on a full disk would kill the process instead of raising."""
    with file.open("wb") as stream:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, n_bytes)
        else:
            zeros = bytes(1 << 22)
            for start in range(0, n_bytes, len(zeros)):
                stream.write(zeros[: n_bytes - start])
