"""One spelling for the magnification of an image, and the selection of the images of one magnification."""

from __future__ import annotations

import re

import numpy as np

from bhsearch.data.arrays import Bools
from bhsearch.data.dataset import Dataset
from bhsearch.errors import SettingsError

ALL = "all"
_NUMBER = re.compile(r"[x×]?\s*(\d+)(?:[.,](\d+))?\s*[x×]?", re.IGNORECASE)


def magnification_key(text: str) -> str:
    """Return a magnification in one spelling: `40`, `40x`, `x40`, `40 ×` and `40.0` become `40X`.

    Text that is not a number, with or without a sign of multiplication, is returned unchanged.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return text
    decimals = (match[2] or "").rstrip("0")
    return f"{int(match[1])}{'.' + decimals if decimals else ''}X"


def at_magnification(dataset: Dataset, wanted: str) -> tuple[str, Bools]:
    """Select the images of one magnification.

    Args:
        dataset: Data set whose magnifications are spelt as `magnification_key` spells them.
        wanted: Magnification in any spelling, or `all`, which selects every image.

    Returns:
        The magnification as in the data set, and the mask of its images. Shape (n_images,).

    Raises:
        SettingsError: If no image has this magnification.
    """
    if wanted == ALL:
        return ALL, np.ones(len(dataset), dtype=bool)
    column = dataset.column("magnification")
    known = sorted(set(column) - {""}, key=lambda value: (len(value), value))
    key = magnification_key(wanted)
    for value in known:
        if value.casefold() == key.casefold():
            return value, column == value
    raise SettingsError(
        f"--magnification must be one of {', '.join([ALL, *known])}, but got {wanted!r}."
        if known
        else f"The data set has no magnifications, so --magnification must be {ALL}, but got {wanted!r}."
    )
