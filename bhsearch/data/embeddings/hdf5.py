"""HDF5 files of vectors as TRIDENT writes them: one file per slide, with its patches or with one vector.

A file has the dataset `features`, with the name of the slide and of the encoder as attributes, and the dataset `coords`
with the position of each patch. A file of many images may have a dataset of keys instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.embeddings.blocks import VectorFile, as_text, rows_per_block
from bhsearch.errors import DataError
from bhsearch.text import named

SUFFIXES = (".h5", ".hdf5")
FEATURES, COORDS = "features", "coords"
PATCH = "patch"  # name of the keys of patches, SLIDE_X_Y, and of slides


def read_hdf5(files: Sequence[Path]) -> VectorFile:
    """Open HDF5 files of vectors, which together are one table.

    Args:
        files: One file, or the files of a folder.

    Raises:
        DataError: If a file is no HDF5 file, has no dataset `features`, or has other features than the others.
    """
    keys: dict[str, list[str]] = {}
    encoders: dict[str, Path] = {}
    columns: dict[str, None] = {}
    n_features = 0
    for number, file in enumerate(files):
        with _opened(file) as content:
            names = [name for name in content if hasattr(content[name], "shape")]
            columns.update(dict.fromkeys(names))
            if FEATURES not in names:
                raise DataError(
                    f"{file} must have a dataset {FEATURES!r}, as TRIDENT writes it, but its datasets are "
                    f"{named(names, 12) or 'none'}."
                )
            vectors = content[FEATURES]
            n_rows, width = _shape(file, vectors)
            if number and width != n_features:
                raise DataError(
                    f"All files must have vectors of the same length, but {file} has {width} features and {files[0]} "
                    f"has {n_features}. Remove the files of another encoder."
                )
            n_features = width
            encoders.setdefault(as_text(vectors.attrs.get("encoder", "")), file)
            own = _keys(file, content, names, n_rows)
            if number and own.keys() != keys.keys():
                raise DataError(
                    f"All files must have the same datasets of keys, but {file} has {named(own)} and {files[0]} has "
                    f"{named(keys)}."
                )
            for name, values in own.items():
                keys.setdefault(name, []).extend(values)
    if len(encoders) > 1:
        (one, first), (other, second), *_ = encoders.items()
        raise DataError(
            f"All files must be of one encoder, but {first} names {one or 'none'!r} and {second} names "
            f"{other or 'none'!r}. Give one folder per encoder."
        )
    return VectorFile(tuple(columns), next(iter(encoders), ""), keys, lambda: _blocks(files))


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    import h5py

    try:
        content = h5py.File(file, "r")
    except OSError as error:
        raise DataError(f"Cannot read {file} as an HDF5 file: it is damaged or of another type.") from error
    with content:
        yield content


def _shape(file: Path, vectors: Any) -> tuple[int, int]:
    """Return the numbers of rows and of features; one vector, also with a batch axis, is one row.

    Raises:
        DataError: If the dataset has another shape, or is not of numbers.
    """
    shape = tuple(vectors.shape)
    kept = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if len(kept) not in (1, 2) or not all(kept) or vectors.dtype.kind not in "fiu":
        raise DataError(
            f"The dataset {FEATURES!r} of {file} must have the shape (n_images, n_features), but has {shape} with "
            f"values of type {vectors.dtype}."
        )
    return (1, kept[0]) if len(kept) == 1 else (kept[0], kept[1])


def _keys(file: Path, content: Any, names: Sequence[str], n_rows: int) -> dict[str, list[str]]:
    """Return the datasets of text or whole numbers with one entry per row, and the names of patches."""
    found = {}
    for name in names:
        data = content[name]
        if data.shape == (n_rows,) and name != FEATURES and data.dtype.kind in "OSUiu":
            found[name] = [as_text(value) for value in data[:].tolist()]
    if not found:
        slide = as_text(content[FEATURES].attrs.get("name", "")) or file.stem
        coords = content[COORDS] if COORDS in names else None
        if n_rows == 1 and (coords is None or content[FEATURES].ndim == 1 or len(coords) != 1):
            found[PATCH] = [slide]  # a vector of the whole slide
        elif coords is not None and tuple(coords.shape) == (n_rows, 2):
            found[PATCH] = [f"{slide}_{int(x)}_{int(y)}" for x, y in coords[:].tolist()]
    return found


def _blocks(files: Sequence[Path]) -> Iterator[npt.NDArray[np.floating]]:
    for file in files:
        with _opened(file) as content:
            vectors = content[FEATURES]
            n_rows, n_features = _shape(file, vectors)
            if vectors.ndim != 2:
                yield vectors[...].reshape(n_rows, n_features).astype(np.float64)
                continue
            step = rows_per_block(n_features, vectors.dtype.itemsize)
            for first in range(0, n_rows, step):
                block = vectors[first : first + step]
                yield block if block.dtype.kind == "f" else block.astype(np.float64)
