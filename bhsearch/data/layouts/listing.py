"""What a reader makes of a data set: a row per image from names alone, and what there is to say about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bhsearch.data.index import CLASS_NAMES, BadFile, LeftOut
from bhsearch.errors import DataError
from bhsearch.text import listed


@dataclass(frozen=True)
class ImageRecord:
    """What names say of one image; empty strings where they say nothing. Fields as in `Index.table`."""

    path: str
    label: int
    case: str
    slide: str = ""
    subtype: str = ""
    magnification: str = ""
    part: str = ""


@dataclass(frozen=True)
class Listing:
    """What a reader makes of a data set.

    Attributes:
        root: Folder that the paths are relative to.
        layout: The reader.
        rows: One per image.
        has_cases: Whether every image's case is known.
        bad: What is in the folder and cannot be read, such as links to folders elsewhere.
        left_out: Files that are no images, counted; empty for a manifest, which names its images.
        notes: Sentences on how the data were read.
    """

    root: Path
    layout: str
    rows: tuple[ImageRecord, ...]
    has_cases: bool = True
    bad: tuple[BadFile, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


def raise_data_errors(problems: list[str], rule: str, advice: str = "") -> None:
    """Raise DataError with a rule, what breaks it, and what to do, if anything breaks it."""
    if problems:
        more = f"\n{advice}" if advice else ""
        raise DataError(f"{rule} Wrong here ({len(problems):,}):\n{listed(problems)}{more}")


def require_both_classes(labels: Iterable[int], where: str = "") -> None:
    """Raise DataError unless there are benign and malignant images."""
    present = set(labels)
    if present != {0, 1}:
        only = ", ".join(CLASS_NAMES[label] for label in sorted(present)) or "none"
        raise DataError(f"benign and malignant images are both needed, but{where} the only class is: {only}.")


def named(names: Iterable[str], most: int = 5) -> str:
    """Names in quotes for a sentence, at most `most` of them, then a count of the rest."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
