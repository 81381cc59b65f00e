"""Load a data set from files: list the images according to the layout, then hash every file."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from bhsearch.data.dataset import CLASS_NAMES, COLUMNS, BadFile, Dataset
from bhsearch.data.images.decode import Digests, Progress, hash_images
from bhsearch.data.layouts import registry
from bhsearch.data.layouts.base import LAYOUTS, NO_OPTIONS, LayoutOptions
from bhsearch.data.layouts.listing import Listing, require_both_classes
from bhsearch.data.magnification import magnification_key
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
    if bad:
        _require_unchanged(listing, bad)
    if bad and not skip_unreadable:
        raise DataError(
            f"Cannot read {len(bad):,} of {plural(len(listing.rows) + len(listing.bad), 'image')}:\n{_reasons(bad)}\n"
            "Repair or remove the files, or skip them with --skip-unreadable."
        )
    read = [(row, result) for row, result in zip(listing.rows, results, strict=True) if isinstance(result, Digests)]
    rows = [
        {**asdict(row), **asdict(result), "magnification": magnification_key(row.magnification)} for row, result in read
    ]
    labels = [int(row["label"]) for row in rows]
    if bad and (not rows or (both_classes and len(set(labels)) < len(CLASS_NAMES))):
        left = f"only {CLASS_NAMES[labels[0]]} images are" if rows else "no image is"
        raise DataError(
            f"Images of both classes are needed, but {left} left after leaving out "
            f"{plural(len(bad), 'unreadable file')}:\n{_reasons(bad)}\nRepair the files."
        )
    if both_classes or not rows:
        require_both_classes(labels)
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
        sizes={row.path: (result.height, result.width) for row, result in read},
    )


def _reasons(bad: Sequence[BadFile]) -> str:
    return listed([f"{file.path}: {file.reason}" for file in bad])


def _require_unchanged(listing: Listing, bad: Sequence[BadFile]) -> None:
    """Check that files that cannot be read still exist.

    Raises:
        DataError: If files were removed after they were listed. They are not skipped: the remaining images would be
            another data set.
    """
    listed_before = {row.path for row in listing.rows}
    gone = [file.path for file in bad if file.path in listed_before and not os.path.lexists(listing.root / file.path)]
    if gone:
        raise DataError(
            f"Images must not be moved or deleted while they are read, but {plural(len(gone), 'image')} of "
            f"{len(listing.rows):,} disappeared:\n{listed(gone)}\nCheck that nothing changes the folder and that its "
            "disk is connected, then run the command again."
        )


def _name(listing: Listing) -> str:
    if LAYOUTS.get(listing.layout).names_dataset:
        return listing.layout
    return name_of_folder(listing.root.resolve().name)


def name_of_folder(name: str) -> str:
    """Return the name of a data set from the name of its folder: lower case, with letters and digits of any script.

    Other characters become hyphens, so that the name is valid in MLflow and in file names.
    """
    text = unicodedata.normalize("NFC", name).lower()
    kept = "".join(letter if unicodedata.category(letter)[0] in "LMN" else "-" for letter in text)
    return re.sub("-+", "-", kept).strip("-") or "data"
