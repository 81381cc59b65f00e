"""The pixel cache: every development image decoded and resized once, as one uint8 array on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.dataset import Dataset
from bhsearch.data.images.decode import decode_for
from bhsearch.runtime import cache

Pixels = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]
_FILE = "pixels.u8"


@dataclass(frozen=True)
class Resize:
    """The resize that fills the cache: the first step of every network, handed down by the networks.

    Attributes:
        name: Identifies the step; a part of the key of everything computed behind it.
        shape: Shape of one resized image, (n_tiles, size, size, 3).
        apply: The step itself: uint8 (height, width, 3) of any size -> uint8 of `shape`.
    """

    name: str
    shape: tuple[int, int, int, int]
    apply: Callable[[Pixels], Pixels]


@dataclass(frozen=True, eq=False)
class PixelCache:
    """Resized pixels of an index.

    Attributes:
        key: Digest of the images and of the resize.
        file: Where the array lies, row by row as in the index.
        shape: (n_images, n_tiles, size, size, 3).
    """

    key: str
    file: Path
    shape: tuple[int, int, int, int, int]

    def read(self, start: int, stop: int) -> Pixels:
        """Some rows, read and not mapped: so they are not counted as memory of the process for ever."""
        n_rows = min(stop, self.shape[0]) - start
        n_values = int(np.prod(self.shape[1:]))
        rows = np.fromfile(self.file, np.uint8, n_rows * n_values, offset=start * n_values)
        return rows.reshape(n_rows, *self.shape[1:])

    def rows(self, wanted: npt.NDArray[np.int64]) -> Pixels:
        """Some rows in any order, from a map that is let go again. Shape (n_wanted, n_tiles, size, size, 3)."""
        return np.memmap(self.file, np.uint8, "r", shape=self.shape)[wanted]


def pixel_cache(dataset: Dataset, resize: Resize, progress: Progress | None = None) -> PixelCache:
    """Decode and resize every image of an index, or find that done already.

    Args:
        dataset: The images; pass development rows only.
        resize: The first step of the networks.
        progress: Called with (done, total) images.

    Raises:
        DataError: If an image cannot be decoded.
        PlaceError: If the disk is full.
    """
    facts, shape = _facts(dataset, resize), (len(dataset), *resize.shape)

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
    """Where `pixel_cache` puts the array, whether it is there yet or not."""
    return cache.folder_of("pixels", _facts(dataset, resize)) / _FILE


def _facts(dataset: Dataset, resize: Resize) -> dict[str, Any]:
    digests = list(dataset.table["pixels_digest"])
    return {"resize": resize.name, "images": cache.cache_key({"pixels": digests}), "version": 1}


def _allocate(file: Path, n_bytes: int) -> None:
    """Reserve the space first: a memmap on a full disk would end the process instead of raising."""
    with file.open("wb") as stream:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, n_bytes)
        else:
            zeros = bytes(1 << 22)
            for start in range(0, n_bytes, len(zeros)):
                stream.write(zeros[: n_bytes - start])
