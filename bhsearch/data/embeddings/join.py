"""Join tables of vectors to the images of a data set by their keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from bhsearch.data.embeddings.table import VectorTable
from bhsearch.data.layouts.naming import folded
from bhsearch.errors import DataError, SettingsError
from bhsearch.text import listed, named, plural

# Names of key columns in the order in which they are looked for.
KEY_NAMES = (
    *("path", "image_path", "file_path", "filepath", "image", "file", "file_name", "filename", "image_name"),
    *("id", "image_id", "patch_id", "tile_id", "key", "name", "patch", "tile", "slide_id", "slide", "paths"),
    *("images", "files", "file_names", "filenames", "ids", "image_ids", "keys", "names", "__index_level_0__"),
)
Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
_MOST_COPIED = 1 << 27  # bytes of rows that are read from the file at once


@dataclass(frozen=True, eq=False)
class ImageVectors:
    """The vectors of the images of a data set, of one encoder.

    Attributes:
        table: Table of the vectors.
        rows: Row of the table of each image. Shape (n_images,).
    """

    table: VectorTable
    rows: Rows

    def select(self, images: npt.NDArray[np.bool_] | Rows) -> ImageVectors:
        """Return the vectors of some images, given by a mask or by their positions."""
        return replace(self, rows=self.rows[images])

    def read(self) -> Vectors:
        """Read the vectors. Shape (n_images, n_features)."""
        whole = self.table.mapped()
        found = np.empty((len(self.rows), self.table.n_features), np.float32)
        step = max(1, _MOST_COPIED // max(found[:1].nbytes, 1))
        for first in range(0, len(found), step):
            np.take(whole, self.rows[first : first + step], axis=0, out=found[first : first + step])
        return found

    def __str__(self) -> str:
        table = self.table
        by = f" by {table.encoder}" if table.encoder else ""
        return f"{table.name}{by} ({table.n_features:,} features, {table.file.name}, digest {table.digest})"

    def facts(self) -> dict[str, str | int]:
        """Return which file the vectors are from, as a JSON-compatible dict."""
        table = self.table
        return {
            "name": table.name,
            "file": table.file.name,
            "digest": table.digest,
            "encoder": table.encoder,
            "n_features": table.n_features,
        }


def join(table: VectorTable, paths: Sequence[str], ids: Mapping[str, str], key: str | None = None) -> ImageVectors:
    """Find the row of each image in a table of vectors.

    The keys of the table are compared with the ids of the images, if the manifest has any, then with their paths, their
    paths without suffix, their file names, and their file names without suffix. The first of these that finds the most
    images is taken. Rows of other images are ignored.

    Args:
        table: Table of vectors.
        paths: Path of each image, relative to the data folder.
        ids: Ids of the images in the manifest, by path; empty if it has none.
        key: Name of the column of keys (`--features-key`); None to find it by its name.

    Raises:
        DataError: If a feature is constant, no column of keys is recognised, keys are empty or not unique, or images
            have no vector.
        SettingsError: If there is no column `key`.
    """
    table.require_varying()
    column, keys = keys_of(table, key)
    places = {text: row for row, text in enumerate(keys)}
    by_kind = [[_plain(name) for name in names] for names in _names(paths, ids)]
    best = max(by_kind, key=lambda names: sum(name in places for name in names))
    _raise_if(
        [path for path, name in zip(paths, best, strict=True) if name not in places],
        f"Every image of the manifest needs a vector, but {table.file} has no row for some.",
        f"The keys in its column {column!r} look like {named(keys[:3])}. They may be ids, paths, or file names of the "
        "manifest, with or without suffix. Compute the missing vectors, remove the images from the manifest, or name "
        "another column with --features-key.",
    )
    rows = np.array([places[name] for name in best], np.int64)
    if len(np.unique(rows)) < len(rows):
        shared = [name for name, n in Counter(best).items() if n > 1]
        raise DataError(
            f"Each row of {table.file} must belong to one image, but {named(shared)} would belong to several, because "
            "file names are not unique. Write paths or ids as keys."
        )
    return ImageVectors(table, rows)


def keys_of(table: VectorTable, key: str | None = None) -> tuple[str, list[str]]:
    """Return the name of the column of keys of a table, and the key of each row.

    Args:
        table: Table of vectors.
        key: Name of the column; None to find it by its name.

    Raises:
        DataError: If no column of keys is recognised, or keys are empty or not unique.
        SettingsError: If there is no column `key`.
    """
    column = _key_column(table, key)
    keys = [_plain(text) for text in table.keys()[column]]
    if not all(keys):
        raise DataError(
            f"Every row of {table.file} must have a key, but row {keys.index('') + 1:,} has none in the column "
            f"{column!r}. Fill it in, or name another column with --features-key."
        )
    _raise_if(
        [f"{text}: {n} rows" for text, n in Counter(keys).items() if n > 1],
        f"The keys of {table.file} in the column {column!r} must be unique, but some are in several rows.",
        "Keep one row per image, or name another column with --features-key.",
    )
    return column, keys


def _raise_if(wrong: list[str], rule: str, advice: str) -> None:
    if wrong:
        raise DataError(f"{rule} Affected ({len(wrong):,}):\n{listed(wrong)}\n{advice}")


def _names(paths: Sequence[str], ids: Mapping[str, str]) -> list[list[str]]:
    """Return the names of the images that are compared with keys, for each kind of name."""
    pure = [PurePosixPath(path) for path in paths]
    return [
        *([[ids.get(path, "") for path in paths]] if ids else []),
        list(paths),
        [str(path.with_suffix("")) if path.name else "" for path in pure],
        [path.name for path in pure],
        [path.stem for path in pure],
    ]


def _plain(name: str) -> str:
    """Return a name with slashes instead of backslashes, and without `./` at its beginning."""
    return name.strip().replace("\\", "/").removeprefix("./")


def _key_column(table: VectorTable, key: str | None) -> str:
    """Return the name of the column of keys.

    Raises:
        DataError: If none is recognised.
        SettingsError: If there is no column `key`.
    """
    columns = list(table.keys())
    known = named(columns, 12) if columns else "none"
    if key is not None:
        if key not in columns:
            raise SettingsError(
                f"--features-key must be a column of text or whole numbers of {table.file}, but got {key!r}. Its "
                f"columns of this kind are {known}."
            )
        return key
    by_name = {folded(name): name for name in reversed(columns)}
    found = next((by_name[name] for name in KEY_NAMES if name in by_name), None)
    if found is None:
        found = next(iter(columns)) if len(columns) == 1 else None
    if found is None:
        raise DataError(
            f"No column of {table.file} is recognised as the key of the images: its columns are "
            f"{named(table.columns, 12)}, of which {known} hold text or whole numbers. Name the key with "
            "--features-key COLUMN."
        )
    return found


def name_digests(paths: Sequence[str], cases: Sequence[str], vectors: ImageVectors) -> list[str]:
    """Return what stands in for the digest of the pixels of images that are not read.

    It is a digest of path and case, so that an image has the same one for all encoders. Images whose vectors are equal
    are the same image and share the digest of the first one.

    Args:
        paths: Path of each image.
        cases: Case of each image.
        vectors: Vectors of the images.

    Returns:
        A digest of 32 hex digits for each image.
    """
    import hashlib

    digests = vectors.table.row_digests()[vectors.rows]
    _, first, number = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    named_by = first[number.reshape(-1)]
    own = [
        hashlib.sha256(f"{path}\x1f{case}".encode()).hexdigest()[:32] for path, case in zip(paths, cases, strict=True)
    ]
    return [own[place] for place in named_by.tolist()]


def check_unique_names(files: Sequence[Path], names: Sequence[str]) -> None:
    """Check that no two files of vectors have the same name, which is that of their backbone.

    Raises:
        SettingsError: If two files have the same name.
    """
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        same = [str(file) for file, name in zip(files, names, strict=True) if name == twice[0]]
        raise SettingsError(
            f"Each file of --features must have another name, but {plural(len(same), 'file')} are called {twice[0]!r}: "
            f"{', '.join(same)}. Rename one of them."
        )
