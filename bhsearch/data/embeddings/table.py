"""Tables of vectors: files converted once to raw float32 in the cache, and mapped into memory from there."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.embeddings.blocks import VectorFile
from bhsearch.data.embeddings.hdf5 import SUFFIXES as HDF5_SUFFIXES
from bhsearch.data.embeddings.hdf5 import read_hdf5
from bhsearch.data.embeddings.npz import read_npz
from bhsearch.data.embeddings.parquet import read_parquet
from bhsearch.errors import DataError
from bhsearch.runtime import cache
from bhsearch.text import named

KIND = "vectors"  # of the cache entries
SUFFIXES = (".parquet", ".pq", *HDF5_SUFFIXES, ".npz")
_VECTORS, _ROWS, _FACTS = "vectors.f32", "rows.npy", "table.json"
_VERSION = 1
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class VectorTable:
    """A converted file of vectors.

    Attributes:
        name: Name of the backbone: the stem of the file, or the name of the folder.
        file: File or folder of the user.
        digest: Digest of its content. 24 hex digits.
        encoder: Name of the encoder that its metadata give; empty if they give none.
        n_rows, n_features: Shape of the vectors.
        columns: Names of all columns of the file.
        folder: Folder of the cache entry.
    """

    name: str
    file: Path
    digest: str
    encoder: str
    n_rows: int
    n_features: int
    columns: tuple[str, ...]
    folder: Path

    def mapped(self) -> Vectors:
        """Map all vectors into memory. Shape (n_rows, n_features)."""
        return np.memmap(self.folder / _VECTORS, np.float32, "r", shape=(self.n_rows, self.n_features))

    def row_digests(self) -> npt.NDArray[np.uint64]:
        """Return a digest of each vector; equal vectors have the same one. Shape (n_rows, 2)."""
        found: npt.NDArray[np.uint64] = np.load(self.folder / _ROWS)
        return found

    def keys(self) -> dict[str, list[str]]:
        """Return the columns that may identify the images, by name, with one entry per row."""
        found: dict[str, list[str]] = self._facts()["keys"]
        return found

    def require_varying(self) -> None:
        """Check that every feature has different values, as the vectors of many images have.

        Raises:
            DataError: If a feature is constant.
        """
        constant = {int(place): value for place, value in self._facts()["constant"].items()}
        if constant and self.n_rows > 1:
            n, first = len(constant), min(constant)
            which = ", ".join(f"{place + 1:,}" for place in sorted(constant)[:5]) + (" and others" if n > 5 else "")
            raise DataError(
                f"No feature of {self.file} may have the same value for all images, but {n:,} of "
                f"{self.n_features:,} do: feature {which} (feature {first + 1:,} is always {constant[first]:g}). The "
                "file may hold the output of a broken encoder, or a column that is not part of the vectors; its "
                f"columns are {named(self.columns, 8)}. Remove it."
            )

    def _facts(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / _FACTS).read_text(encoding="utf-8")))


def table_of(file: Path) -> VectorTable:
    """Return the table of a file of vectors, which is converted unless the cache has it.

    Raises:
        DataError: If the file cannot be read, or its vectors are not finite or have different lengths.
        PlaceError: If the cache cannot be written or the disk is full.
    """
    return _table(file, tuple(_files(file)), digest_of(file), cache.cache_root())


def name_of(file: Path) -> str:
    """Return the name of the backbone of a file or folder of vectors."""
    return file.name if file.is_dir() else file.stem


def digest_of(file: Path) -> str:
    """Return the digest of the content of a file, or of all HDF5 files of a folder. 24 hex digits.

    Raises:
        DataError: If the file does not exist or has another type.
    """
    stamps = tuple((str(each), each.stat().st_mtime_ns, each.stat().st_size) for each in _files(file))
    return _digest(stamps)


@functools.lru_cache(64)
def _digest(stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Return the digest of some files, which is computed once per process for files that do not change."""
    digests = []
    for name, _, _ in stamps:
        with Path(name).open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0][:24]
    lines = [f"{Path(name).name} {digest}" for (name, _, _), digest in zip(stamps, digests, strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:24]


def _files(file: Path) -> list[Path]:
    """Return the files of a table: a file, or the HDF5 files of a folder.

    Raises:
        DataError: If there are none, or the file has another type.
    """
    if file.is_dir():
        found = sorted(each for each in file.iterdir() if each.suffix.lower() in HDF5_SUFFIXES)
        if not found:
            raise DataError(f"The folder of --features {file} has no HDF5 files ({', '.join(HDF5_SUFFIXES)}).")
        return found
    if not file.is_file():
        raise DataError(f"There is no file --features {file}. Check the path.")
    if file.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"--features must be a Parquet, HDF5 or npz file ({', '.join(SUFFIXES)}), or a folder of HDF5 files, but "
            f"got {file}."
        )
    return [file]


def _read(files: Sequence[Path]) -> VectorFile:
    suffix = files[0].suffix.lower()
    if suffix in HDF5_SUFFIXES:
        return read_hdf5(files)
    return read_npz(files[0]) if suffix == ".npz" else read_parquet(files[0])


@functools.lru_cache(64)
def _table(file: Path, files: tuple[Path, ...], digest: str, root: Path) -> VectorTable:  # noqa: ARG001  # of the cache
    """Return a table, whose cache entry is checked once per process; it stays in use until the process ends."""
    facts = {"file": digest, "suffix": files[0].suffix.lower(), "version": _VERSION}
    if len(files) == 1 and facts["suffix"] in HDF5_SUFFIXES:
        facts["name"] = files[0].stem  # the keys of a slide may contain it
    folder = cache.get_or_create(KIND, facts, lambda folder: _convert(file, files, folder))
    kept = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    return VectorTable(
        name_of(file),
        file,
        digest,
        kept["encoder"],
        kept["n_rows"],
        kept["n_features"],
        tuple(kept["columns"]),
        folder,
    )


def _convert(file: Path, files: Sequence[Path], folder: Path) -> None:
    """Write the vectors of a file as raw float32, block by block, and check them."""
    content = _read(files)
    n_rows, least, most = 0, np.empty(0, np.float32), np.empty(0, np.float32)
    digests = []
    with (folder / _VECTORS).open("wb") as stream:
        for block in _finite(file, content.blocks()):
            if n_rows == 0:
                least, most = block.min(axis=0), block.max(axis=0)
            np.minimum(least, block.min(axis=0), out=least)
            np.maximum(most, block.max(axis=0), out=most)
            stream.write(block.data)
            digests.append(_digests(block))
            n_rows += len(block)
    if n_rows == 0:
        raise DataError(f"{file} has no rows. Write one row per image.")
    constant = np.flatnonzero(least == most).tolist()
    np.save(folder / _ROWS, np.concatenate(digests))
    facts: Mapping[str, Any] = {
        "encoder": content.encoder,
        "n_rows": n_rows,
        "n_features": len(least),
        "columns": list(content.columns),
        "constant": {str(place): float(least[place]) for place in constant},
        "keys": {name: list(values) for name, values in content.keys.items()},
    }
    (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")


def _finite(file: Path, blocks: Iterator[npt.NDArray[np.floating]]) -> Iterator[Vectors]:
    """Yield blocks in float32.

    Raises:
        DataError: If a value is missing, infinite, or too large for float32.
    """
    first = 0
    for block in blocks:
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(block, np.float32)
        wrong = np.argwhere(~np.isfinite(rows))
        if len(wrong):
            row, feature = wrong[0]
            n_rows = len(np.unique(wrong[:, 0]))
            raise DataError(
                f"All vectors of {file} must be finite numbers in float32, but row {first + row + 1:,} has "
                f"{block[row, feature]} as feature {feature + 1} ({n_rows:,} such "
                f"{'row' if n_rows == 1 else 'rows'} up to there). Compute the vectors of these images again, or "
                "remove the rows."
            )
        yield rows
        first += len(rows)


def _digests(block: Vectors) -> npt.NDArray[np.uint64]:
    """Return a digest of 16 bytes for each row."""
    found = b"".join(hashlib.blake2b(row.data, digest_size=16).digest() for row in block)
    return np.frombuffer(found, np.uint64).reshape(len(block), 2)
