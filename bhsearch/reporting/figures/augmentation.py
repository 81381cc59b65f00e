"""Picture of augmented images, to check that they still look like tissue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bhsearch.models.augmentation.device_transforms import SHOWN_SAMPLES, SHOWN_STRENGTHS
from bhsearch.reporting.figures.picture import MARGIN, Picture, Tile, Words
from bhsearch.reporting.figures.thumbnails import encode_image

Pixels = npt.NDArray[np.uint8]

_HEADS = ("original", *(f"strength {strength}" for strength in SHOWN_STRENGTHS))
_CELL, _GAP = 108.0, 4.0  # side and distance of the images, in units
_MOST_PIXELS = 128  # largest side of an embedded image
_LABELS = 68.0  # width of the policy names
_HEAD = 24.0  # height of the column heads


def augmentation_picture(rows: Sequence[tuple[str, Sequence[Pixels]]], note: str) -> Picture:
    """Return a picture with one row per policy: the original image, then augmented samples at each strength.

    Args:
        rows: Name of each policy, and its pictures: the original, then the samples, weakest strength first. Each
            picture has shape (size, size, 3).
        note: Note in a corner, such as "synthetic data (phantom)"; may be empty.

    Raises:
        ValueError: If there is no row, or if a row has the wrong number of pictures.
    """
    n_columns = 1 + SHOWN_SAMPLES * len(SHOWN_STRENGTHS)
    if not rows or any(len(pictures) != n_columns for _, pictures in rows):
        raise ValueError(
            f"All rows must have {n_columns} pictures, but got {[(name, len(some)) for name, some in rows]}."
        )
    block = [-(-k // SHOWN_SAMPLES) for k in range(n_columns)]  # index of the strength; 0 for the original
    left = [MARGIN + _LABELS + k * (_CELL + _GAP) + 2 * _GAP * block[k] for k in range(n_columns)]
    words, tiles = [], []
    for k, head in enumerate(_HEADS):
        middle = float(np.mean([x for x, own in zip(left, block, strict=True) if own == k])) + _CELL / 2
        words.append(Words(middle, _HEAD - 10, head, "middle"))
    for row, (policy, pictures) in enumerate(rows):
        top = _HEAD + row * (_CELL + _GAP)
        words.append(Words(MARGIN, top + _CELL / 2 + 4, policy))
        for x, pixels in zip(left, pictures, strict=True):
            side = min(*pixels.shape[:2], _MOST_PIXELS)
            tiles.append(Tile(x, top, _CELL, encode_image(pixels, side, lossless=False)))
    return Picture(
        "Augmentation",
        "Rows: policies. Columns: the image itself, then two samples a strength.",
        note,
        tiles=tiles,
        words=words,
        width=left[-1] + _CELL + MARGIN,
        height=_HEAD + len(rows) * (_CELL + _GAP) + 10,
        alt=f"Images augmented with the policies {', '.join(policy for policy, _ in rows)}",
    )
