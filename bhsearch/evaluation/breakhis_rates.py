"""Image-level and patient-level recognition rates over the published folds, as reported in papers on BreakHis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.metrics import weighted_accuracy


@dataclass(frozen=True)
class Rates:
    """Recognition rates of one fold at one magnification.

    Attributes:
        fold: Number of the fold.
        magnification: Magnification as in the data set, such as `100X`.
        image_rate: Share of test images with the correct predicted label, 0 to 1.
        recognition_rate: Mean over patients of the share of the patient's images with the correct predicted label, 0 to
            1.
        n_images: Number of test images.
        n_patients: Number of patients. Papers on BreakHis count each slide as a patient.
    """

    fold: int
    magnification: str
    image_rate: float
    recognition_rate: float
    n_images: int
    n_patients: int


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation of recognition rates over folds at one magnification.

    Standard deviations have ddof 1, and are nan for a single fold.

    Attributes:
        magnification: Magnification as in the data set, such as `100X`.
        n_folds: Number of folds.
        image_rate: Mean and standard deviation of `Rates.image_rate`, the share of correctly classified images.
        recognition_rate: Mean and standard deviation of `Rates.recognition_rate`, the mean over patients of the share
            of correctly classified images.
    """

    magnification: str
    n_folds: int
    image_rate: tuple[float, float]
    recognition_rate: tuple[float, float]


def recognition_rates(
    fold: int, magnification: str, correct: npt.NDArray[np.bool_], patient: npt.NDArray[Any]
) -> Rates:
    """Compute the recognition rates of the test images of one fold at one magnification.

    Args:
        fold: Number of the fold.
        magnification: Magnification of the images.
        correct: Whether the predicted label of each image is correct. Shape (n_images,), not empty.
        patient: Patient per image. Shape (n_images,).

    Source:
        Spanhol et al., "A Dataset for Breast Cancer Histopathological Image Classification", 2016, equations 1 to 3.
    """
    _, number = np.unique(np.asarray(patient, dtype=str), return_inverse=True)
    n_images_of = np.bincount(number)
    image_rate, recognition_rate = (
        float(weighted_accuracy(np.ones(len(correct), np.int8), correct, weight))
        for weight in (np.ones(len(correct)), 1.0 / n_images_of[number])
    )
    return Rates(fold, magnification, image_rate, recognition_rate, len(correct), len(n_images_of))


def summaries(rates: Sequence[Rates]) -> list[Summary]:
    """Return mean and standard deviation over folds for each magnification, in ascending order of magnification."""
    magnifications = sorted({row.magnification for row in rates}, key=lambda name: (len(name), name))
    result = []
    for magnification in magnifications:
        rows = [row for row in rates if row.magnification == magnification]
        image, patient = (_mean_and_spread([getattr(row, name) for row in rows]) for name in _NAMES)
        result.append(Summary(magnification, len(rows), image, patient))
    return result


_NAMES = ("image_rate", "recognition_rate")


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
