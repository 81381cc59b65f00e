"""Records of images that all layouts return, and checks that several layouts use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bhsearch.data.dataset import CLASS_NAMES, BadFile, LeftOut
from bhsearch.errors import DataError
from bhsearch.text import listed


@dataclass(frozen=True)
class ImageRecord:
    """Fields of one image as in `Dataset.table`, and its id in a manifest; unknown strings are empty."""

    path: str
    label: int
    case: str
    slide: str = ""
    subtype: str = ""
    magnification: str = ""
    part: str = ""
    site: str = ""
    id: str = ""


@dataclass(frozen=True)
class Listing:
    """Images of a data set as read from names, before any image is opened.

    Attributes:
        root: Folder that contains the images; paths are relative to it.
        layout: Name of the layout.
        rows: One record per image.
        has_cases: Whether the case of every image is known.
        bad: Entries of the folder that cannot be read, such as links to folders outside the data folder.
        left_out: Numbers of files that are not images; empty for a manifest, which lists its images.
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
    """Raise DataError if there are problems.

    Args:
        problems: Items that break a rule.
        rule: Sentence that states the rule.
        advice: Sentence that says what to do; may be empty.

    Raises:
        DataError: If `problems` is not empty.
    """
    if problems:
        more = f"\n{advice}" if advice else ""
        raise DataError(f"{rule} Affected ({len(problems):,}):\n{listed(problems)}{more}")


def require_both_classes(labels: Iterable[int], where: str = "") -> None:
    """Check that both benign and malignant images are present.

    Args:
        labels: Label per image, 0 or 1.
        where: Text inserted into the message, such as the number of unreadable files.

    Raises:
        DataError: If a class has no image.
    """
    present = set(labels)
    if present != {0, 1}:
        only = f"Only {CLASS_NAMES[present.pop()]}" if present else "No"
        raise DataError(
            f"{only} images were found{where}; bhsearch needs both classes. Check --data, or name the classes "
            "with --class-map."
        )
