"""Records of images, as every layout returns them, and checks that layouts share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bhsearch.data.dataset import CLASS_NAMES, BadFile, LeftOut
from bhsearch.errors import DataError
from bhsearch.text import listed


@dataclass(frozen=True)
class ImageRecord:
    """Fields of one image as in `Dataset.table`; empty strings where unknown."""

    path: str
    label: int
    case: str
    slide: str = ""
    subtype: str = ""
    magnification: str = ""
    part: str = ""


@dataclass(frozen=True)
class Listing:
    """Images of a data set before any file is opened.

    Attributes:
        root: Folder that paths are relative to.
        layout: Name of the layout.
        rows: One record per image.
        has_cases: Whether the case of every image is known.
        bad: Entries of the folder that cannot be read, such as links to folders elsewhere.
        left_out: Files that are not images, counted; empty for a manifest, which names its images.
        notes: Sentences about how the data were read.
    """

    root: Path
    layout: str
    rows: tuple[ImageRecord, ...]
    has_cases: bool = True
    bad: tuple[BadFile, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


def raise_data_errors(problems: list[str], rule: str, advice: str = "") -> None:
    """Raise DataError with the rule, the items that break it and the remedy; do nothing if there are no such items."""
    if problems:
        more = f"\n{advice}" if advice else ""
        raise DataError(f"{rule} Affected ({len(problems):,}):\n{listed(problems)}{more}")


def require_both_classes(labels: Iterable[int], where: str = "") -> None:
    """Raise DataError unless both benign and malignant images are present."""
    present = set(labels)
    if present != {0, 1}:
        only = ", ".join(CLASS_NAMES[label] for label in sorted(present)) or "none"
        raise DataError(f"Both benign and malignant images are required, but{where} the only class is: {only}.")


def named(names: Iterable[str], most: int = 5) -> str:
    """Quote names for a sentence, at most `most` of them, followed by a count of the rest."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
