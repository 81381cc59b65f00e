"""Load a data set from files: list the images according to the layout, then hash every file."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from bhsearch.data.dataset import COLUMNS, BadFile, Dataset
from bhsearch.data.images.decode import Digests, Progress, hash_images
from bhsearch.data.layouts import registry
from bhsearch.data.layouts.base import LAYOUTS, NO_OPTIONS, LayoutOptions
from bhsearch.data.layouts.listing import Listing, require_both_classes
from bhsearch.errors import DataError
from bhsearch.text import listed, plural


def load_dataset(
    data: Path,
    *,
    layout: str = registry.AUTO,
    options: LayoutOptions = NO_OPTIONS,
    skip_unreadable: bool = False,
    both_classes: bool = True,
    progress: Progress | None = None,
) -> Dataset:
    """Load a data set: list the images by their names, then hash every file.

    Args:
        data: Folder of images, or a manifest.
        layout: A key of `LAYOUTS`, or `auto` to detect the layout.
        options: Options of the layout.
        skip_unreadable: Whether to skip and record unreadable files instead of raising an error.
        both_classes: Whether to require images of both classes.
        progress: Called with the numbers of files done and in total.

    Raises:
        DataError: If names, labels or cases are invalid; if files cannot be read and `skip_unreadable` is false; or if
            a class has no readable image and `both_classes` is true.
        SettingsError: If an option is invalid or does not fit the layout.
    """
    listing = registry.read(data, layout=layout, options=options, both_classes=both_classes)
    results = hash_images(listing.root, [row.path for row in listing.rows], progress=progress)
    bad = [*listing.bad, *(result for result in results if isinstance(result, BadFile))]
    if bad and not skip_unreadable:
        reasons = listed([f"{file.path}: {file.reason}" for file in bad])
        raise DataError(
            f"Cannot read {len(bad):,} of {plural(len(listing.rows) + len(listing.bad), 'image')}:\n{reasons}\n"
            "Repair or remove the files, or skip them with --skip-unreadable."
        )
    read = [(row, result) for row, result in zip(listing.rows, results, strict=True) if isinstance(result, Digests)]
    rows = [{**asdict(row), **asdict(result)} for row, result in read]
    if both_classes or not rows:
        require_both_classes(
            (row["label"] for row in rows), f" after leaving out {plural(len(bad), 'unreadable file')}"
        )
    return Dataset(
        name=_name(listing),
        root=listing.root,
        layout=listing.layout,
        table=pd.DataFrame(rows, columns=list(COLUMNS)).astype({"label": "int8"}),
        has_cases=listing.has_cases,
        bad=tuple(sorted(bad, key=lambda file: file.path)),
        left_out=listing.left_out,
        notes=listing.notes,
        range_used={row.path: result.range_used for row, result in read if result.range_used < 1},
        pages_left_out={row.path: result.pages_left_out for row, result in read if result.pages_left_out},
    )


def _name(listing: Listing) -> str:
    if LAYOUTS.get(listing.layout).names_dataset:
        return listing.layout
    return re.sub(r"[^a-z0-9]+", "-", listing.root.resolve().name.lower()).strip("-") or "data"
