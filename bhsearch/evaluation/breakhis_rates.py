"""Numbers as the papers on BreakHis print them: image rate and patient recognition rate, over the published folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Rates:
    """Rates of one fold at one magnification.

    Attributes:
        fold: Number of the fold.
        magnification: As the index writes it, such as `100X`.
        image_rate: Share of test images that were called right, 0 to 1.
        recognition_rate: Mean over patients of the share of their images that were called right, 0 to 1.
        n_images: Test images.
        n_patients: What the papers call patients: slides.
    """

    fold: int
    magnification: str
    image_rate: float
    recognition_rate: float
    n_images: int
    n_patients: int


@dataclass(frozen=True)
class Summary:
    """Mean and spread over folds.

    Attributes:
        magnification: Of the images.
        n_folds: Folds.
        image_rate: Mean and standard deviation (ddof 1; nan for a single fold).
        recognition_rate: The same.
    """

    magnification: str
    n_folds: int
    image_rate: tuple[float, float]
    recognition_rate: tuple[float, float]


def recognition_rates(fold: int, magnification: str, right: npt.NDArray[np.bool_], patient: npt.NDArray[Any]) -> Rates:
    """Rates of the test images of one fold at one magnification.

    Args:
        fold: Number of the fold.
        magnification: Of the images.
        right: Whether an image was called right. Shape (n,), not empty.
        patient: What counts as one patient. Shape (n,).

    Source:
        Spanhol et al., "A Dataset for Breast Cancer Histopathological Image Classification", 2016, equations 1 to 3.
    """
    _, number = np.unique(np.asarray(patient, dtype=str), return_inverse=True)
    shares = np.bincount(number, right.astype(np.float64)) / np.bincount(number)
    return Rates(fold, magnification, float(right.mean()), float(shares.mean()), len(right), len(shares))


def summaries(found: Sequence[Rates]) -> list[Summary]:
    """Mean and spread over the folds, per magnification, the smallest first."""
    keys = sorted({row.magnification for row in found}, key=lambda key: (len(key), key))
    made = []
    for key in keys:
        rows = [row for row in found if row.magnification == key]
        image, patient = (_mean_and_spread([getattr(row, name) for row in rows]) for name in _NAMES)
        made.append(Summary(key, len(rows), image, patient))
    return made


_NAMES = ("image_rate", "recognition_rate")


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
