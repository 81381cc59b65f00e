"""Figure of augmented images, to check that they still look like tissue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from bhsearch.models.augmentation.device_transforms import SHOWN_SAMPLES, SHOWN_STRENGTHS
from bhsearch.reporting.figures import style

Pixels = npt.NDArray[np.uint8]

_HEADS = ("original", *(f"strength {strength}" for strength in SHOWN_STRENGTHS))
_CELL = 108  # side of a picture in pixels
_GAP = 4
_MARGIN, _LABELS, _TOP, _BOTTOM = 25, 68, 92, 14  # pixels; policy names are in the left margin


def augmentation_figure(rows: Sequence[tuple[str, Sequence[Pixels]]], note: str) -> Figure:
    """Return a figure with one row per policy: the original image, then augmented samples at each strength.

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
    left = [_MARGIN + _LABELS + k * (_CELL + _GAP) + 2 * _GAP * block[k] for k in range(n_columns)]
    width, height = left[-1] + _CELL + _MARGIN, _TOP + len(rows) * (_CELL + _GAP) + _BOTTOM
    figure = style.new_figure(
        "Augmentation",
        "Rows: policies. Columns: the image itself, then two samples a strength.",
        note,
        width / style.DPI,
        height / style.DPI,
    )
    for k, head in enumerate(_HEADS):
        middle = float(np.mean([x for x, own in zip(left, block, strict=True) if own == k])) + _CELL / 2
        figure.text(middle / width, 1 - (_TOP - 6) / height, head, size=9, color=style.INK, ha="center", va="bottom")
    for row, (policy, pictures) in enumerate(rows):
        bottom = height - _TOP - row * (_CELL + _GAP) - _CELL
        figure.text(_MARGIN / width, (bottom + _CELL / 2) / height, policy, size=9, color=style.INK, va="center")
        for x, pixels in zip(left, pictures, strict=True):
            fitted = Image.fromarray(pixels).resize((_CELL, _CELL), Image.Resampling.LANCZOS)
            figure.figimage(np.asarray(fitted), x, bottom, origin="upper")
    return figure
