"""NumPy archives of vectors: a matrix, and arrays of text or whole numbers with one entry per row."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.embeddings.blocks import VectorFile, as_text, rows_per_block
from bhsearch.errors import DataError
from bhsearch.text import named

_ENCODER = ("encoder", "encoder_name", "model", "model_name")


def read_npz(file: Path) -> VectorFile:
    """Open a NumPy archive of vectors.

    Raises:
        DataError: If the file is no archive, has no matrix or several ones, or has its keys as Python objects.
    """
    try:
        with np.load(file, allow_pickle=False) as content:
            headers = {name: _header(file, name) for name in content.files}
            small = {name: np.asarray(content[name]) for name, (shape, kind) in headers.items() if _is_key(shape, kind)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"Cannot read {file} as an .npz file: it is no archive of NumPy arrays. Write it with numpy.savez."
        ) from error
    matrices = [name for name, (shape, kind) in headers.items() if len(shape) == 2 and kind.kind == "f"]
    if len(matrices) != 1:
        got = f"but {named(matrices)} are matrices" if matrices else f"but its arrays are {named(headers, 12)}"
        raise DataError(
            f"{file} must have one matrix of vectors, a float array of shape (n_images, n_features), {got}."
        )
    (n_rows, _), _ = headers[matrices[0]]
    keys = {name: [as_text(value) for value in array.tolist()] for name, array in small.items() if array.ndim == 1}
    objects = [name for name, (_, kind) in headers.items() if kind.hasobject]
    if objects and not keys:
        raise DataError(
            f"The array {objects[0]!r} of {file} holds Python objects, which are not read because they could run code. "
            f"Write it as text, for example with numpy.savez({objects[0]}=numpy.array({objects[0]}, str), ...)."
        )
    found = [as_text(small[name].item()) for name in _ENCODER if name in small and small[name].size == 1]
    return VectorFile(
        tuple(headers),
        found[0] if found else "",
        {name: values for name, values in keys.items() if len(values) == n_rows},
        lambda: _blocks(file, matrices[0]),
    )


def _is_key(shape: tuple[int, ...], kind: np.dtype[Any]) -> bool:
    return len(shape) < 2 and kind.kind in "USiu"


def _header(file: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as stream:
        shape, _, kind = _read_header(stream)
    return shape, kind


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, kind = read(stream)
    return tuple(shape), bool(fortran_order), kind


def _blocks(file: Path, name: str) -> Iterator[npt.NDArray[np.floating]]:
    """Yield blocks of rows of a matrix, without reading the whole matrix."""
    with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as stream:
        (n_rows, n_features), fortran_order, kind = _read_header(stream)
        if fortran_order and n_features > 1:  # rows are not contiguous, so that the whole matrix must be read
            whole = np.frombuffer(stream.read(), kind).reshape(n_features, n_rows).T
            step = rows_per_block(n_features, kind.itemsize)
            yield from (whole[first : first + step] for first in range(0, n_rows, step))
            return
        step = rows_per_block(n_features, kind.itemsize)
        for first in range(0, n_rows, step):
            n = min(step, n_rows - first)
            yield np.frombuffer(stream.read(n * n_features * kind.itemsize), kind).reshape(n, n_features)
