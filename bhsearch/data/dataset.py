"""The index: one row per image, and everything that is known of it before a network sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

CLASS_NAMES = ("benign", "malignant")
COLUMNS = (
    "path",
    "label",
    "case",
    "slide",
    "subtype",
    "magnification",
    "part",
    "bytes_digest",
    "pixels_digest",
)


@dataclass(frozen=True)
class BadFile:
    """A file that should have been an image and is not."""

    path: str
    reason: str


@dataclass(frozen=True)
class LeftOut:
    """Files of a data folder that are no images of it.

    Attributes:
        suffix: In lower case with its dot, or `no suffix`.
        reason: Why they were left out.
        count: How many there are.
    """

    suffix: str
    reason: str
    count: int


@dataclass(frozen=True, eq=False)
class Dataset:
    """One row per image of a data set.

    Attributes:
        name: Short name of the data set; it becomes part of study and experiment names.
        root: Folder that the paths are relative to.
        layout: Reader that made the index: `breakhis`, `idc`, `folders`, `manifest` or `phantom`.
        table: One row per image, sorted by path. Columns: `path` (POSIX, relative to `root`), `label` (0 benign,
            1 malignant), `case`, `slide`, `subtype`, `magnification` (strings, empty where unknown), `part`
            (`train`, `validation`, `test`, or empty where the data are not divided), `bytes_digest` and
            `pixels_digest` (hex).
        has_cases: Whether `case` is known; if not, each image is its own case and nothing can be promoted.
        synthetic: Whether the images are drawn by a program rather than taken from tissue.
        bad: Files that could not be read and were left out on request.
        left_out: Files of the folder that are no images, counted.
        notes: Sentences on how the data were read, such as columns that are not used.
        range_used: Share of the range of its samples that an image uses, 0 to 1, by path; images whose samples have at
            most 8 bits, which use all of it as far as this goes, are not listed.
        pages_left_out: Pages or frames of a file that were not read, by path; files of one page are not listed.
    """

    name: str
    root: Path
    layout: str
    table: pd.DataFrame
    has_cases: bool = True
    synthetic: bool = False
    bad: tuple[BadFile, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    range_used: Mapping[str, float] = field(default_factory=dict)
    pages_left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> npt.NDArray[np.int8]:
        """0 benign, 1 malignant. Shape (n_images,)."""
        labels: npt.NDArray[np.int8] = self.table["label"].to_numpy(np.int8)
        return labels

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column as an array of Python strings. Shape (n_images,)."""
        values: npt.NDArray[Any] = self.table[name].to_numpy(object)
        return values

    def paths(self) -> list[Path]:
        """Absolute paths, row by row."""
        return [self.root / path for path in self.table["path"]]

    def select(self, rows: npt.NDArray[np.bool_]) -> Dataset:
        """The index of some rows only. `rows` is a mask of shape (n_images,)."""
        return replace(self, table=self.table[rows].reset_index(drop=True))

    @property
    def fingerprint(self) -> str:
        """Digest of everything a result can depend on: labels, cases and pixels, but not where the files lie."""
        digest = hashlib.sha256()
        for row in self.table[["path", "label", "case", "pixels_digest"]].itertuples(index=False):
            digest.update("\x1f".join(map(str, row)).encode() + b"\x1e")
        return digest.hexdigest()[:16]
