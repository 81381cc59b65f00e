"""The data set: a table with one row per image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

if TYPE_CHECKING:
    from bhsearch.data.embeddings.join import ImageVectors

CLASS_NAMES = ("benign", "malignant")
COLUMNS = (
    "path",
    "label",
    "case",
    "slide",
    "subtype",
    "magnification",
    "site",
    "part",
    "bytes_digest",
    "pixels_digest",
)


@dataclass(frozen=True)
class BadFile:
    """An image file that cannot be read.

    Attributes:
        path: POSIX path relative to the data folder.
        reason: Why the file cannot be read, as a fragment such as `empty file`.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class LeftOut:
    """Number of files of a data folder that were left out because of one suffix and one reason.

    Attributes:
        suffix: Suffix in lower case with its dot, or `no suffix`.
        reason: Why the files were left out.
        count: Number of files.
    """

    suffix: str
    reason: str
    count: int


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of a data set, one row per image.

    Attributes:
        name: Short name, used in the names of studies and experiments.
        root: Folder that contains the images; paths are relative to it.
        layout: Name of the layout: `breakhis`, `idc`, `folders`, `manifest`, `phantom`, or one of another package.
        table: One row per image, sorted by path. Columns: `path` (POSIX, relative to `root`), `label` (0 benign, 1
            malignant), `case`, `slide`, `subtype`, `magnification`, `site` (strings, empty where unknown), `part`
            (`train`, `validation`, `test`, or empty without a predefined split), `bytes_digest` and `pixels_digest`
            (hex).
        class_names: Names of the classes; the label of a class is its index in this tuple.
        has_cases: Whether the cases are known. If not, each image is its own case and no model can be promoted.
        synthetic: Whether the images are synthetic instead of photographs of tissue.
        bad: Unreadable files that were skipped on request.
        left_out: Numbers of files in the folder that are not images of the data set.
        notes: Sentences about how the data were read, for example about unused columns.
        range_used: Used share of the sample range, 0 to 1, by path. Images with at most 8 bits per sample have no
            entry.
        pages_left_out: Number of pages or frames that were not read, by path. Files with one page have no entry.
        sizes: Height and width of each image in pixels, by path.
        vectors: Vectors that represent the images instead of their pixels, by name of the encoder; empty for images.
            Without pixels, the digests are of path and case; see `embeddings.join.name_digests`.
    """

    name: str
    root: Path
    layout: str
    table: pd.DataFrame
    class_names: tuple[str, ...] = CLASS_NAMES
    has_cases: bool = True
    synthetic: bool = False
    bad: tuple[BadFile, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    range_used: Mapping[str, float] = field(default_factory=dict)
    pages_left_out: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    vectors: Mapping[str, ImageVectors] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> npt.NDArray[np.int8]:
        """Label per image: 0 benign, 1 malignant. Shape (n_images,)."""
        labels: npt.NDArray[np.int8] = self.table["label"].to_numpy(np.int8)
        return labels

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return one column as an array of Python objects. Shape (n_images,)."""
        values: npt.NDArray[Any] = self.table[name].to_numpy(object)
        return values

    def paths(self) -> list[Path]:
        """Return the path of each image including `root`, in the order of the rows."""
        return [self.root / path for path in self.table["path"]]

    def select(self, rows: npt.NDArray[np.bool_]) -> Dataset:
        """Return the data set restricted to the rows of a mask.

        Args:
            rows: Mask of the rows to keep. Shape (n_images,).
        """
        vectors = {name: each.select(rows) for name, each in self.vectors.items()}
        return replace(self, table=self.table[rows].reset_index(drop=True), vectors=vectors)

    @property
    def fingerprint(self) -> str:
        """Digest of paths, labels, cases and pixels, independent of `root`. 16 hex digits."""
        digest = hashlib.sha256()
        for row in self.table[["path", "label", "case", "pixels_digest"]].itertuples(index=False):
            digest.update("\x1f".join(map(str, row)).encode() + b"\x1e")
        return digest.hexdigest()[:16]
