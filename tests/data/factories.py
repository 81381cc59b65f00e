"""Data sets without files, for tests that need rows but no pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from bhsearch.data.dataset import COLUMNS, Dataset
from bhsearch.data.splits import Split


def make_index(
    cases: Iterable[tuple[str, int, int]],
    *,
    magnifications: Iterable[str] = ("",),
    slides_per_case: int = 1,
    twins: Iterable[tuple[str, str]] = (),
    parts: Mapping[str, str] | None = None,
    has_cases: bool = True,
    root: Path = Path("made"),
) -> Dataset:
    """Return a data set.

    Args:
        cases: Case, label and number of images at each magnification. A case that is listed with both labels is mixed.
        magnifications: Of every case.
        slides_per_case: The images of a case go to its slides in turn.
        twins: Pairs of cases whose first images have the same pixels.
        parts: Part per case, if the data set has parts.
        has_cases: If False every image is its own case, and the case is in its path only.
        root: Where the files would lie.
    """
    rows = []
    for case, label, n_images in cases:
        for magnification in magnifications:
            for number in range(n_images):
                path = f"{case}/{label}/{magnification or 'any'}-{number:03d}.png"
                digest = hashlib.sha256(path.encode()).hexdigest()
                part = (parts or {}).get(case, "")
                slide = f"{case}-{'ABCDEFGH'[number % slides_per_case]}"
                rows.append((path, label, case, slide, "", magnification, case, part, digest, digest))
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"label": "int8"})
    table = table.sort_values("path", ignore_index=True)
    for one, other in twins:
        first = [table.index[table["case"] == case][0] for case in (one, other)]
        table.loc[first[1], "pixels_digest"] = table.loc[first[0], "pixels_digest"]
    if not has_cases:
        table["case"] = table["path"]
    return Dataset(name="made", root=root, layout="manifest", table=table, has_cases=has_cases)


def balanced(n_benign: int, n_malignant: int, n_images: int = 2) -> list[tuple[str, int, int]]:
    """Return cases of one label each, for `make_index`."""
    return [(f"b{at:02d}", 0, n_images) for at in range(n_benign)] + [
        (f"m{at:02d}", 1, n_images) for at in range(n_malignant)
    ]


def with_column(dataset: Dataset, **columns: object) -> Dataset:
    """Return the data set with other values in some columns."""
    return replace(dataset, table=dataset.table.assign(**columns))


def sealed(split: Split) -> set[str]:
    """Return the paths of the test images."""
    return set(split.paths[split.test])
