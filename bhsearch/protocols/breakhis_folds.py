"""Evaluate a fixed configuration on the published folds of BreakHis, separately for each magnification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bhsearch.data.dataset import Dataset
from bhsearch.data.images.pixel_cache import Progress, pixel_cache
from bhsearch.data.layouts.breakhis_folds import ResolvedFold
from bhsearch.errors import DataError
from bhsearch.evaluation.breakhis_rates import Rates, recognition_rates, summaries
from bhsearch.models import backend
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.features import FeatureCache
from bhsearch.models.resize import make_resize
from bhsearch.models.training.heads import Heads, Moments, standardisation
from bhsearch.models.training.logistic_path import fit_path
from bhsearch.objectives.space import LOG10_PENALTY

OFFICIAL_NOTE = (
    "For comparison with papers, never to choose by: these folds test on cases that a study of these data seals, "
    "and put the leaks below on both sides."
)


def evaluate_folds(
    index: Dataset,
    folds: Sequence[ResolvedFold],
    backbone: Backbone,
    image_size: int = 224,
    feature_backend: str = "auto",
    progress: Progress | None = None,
) -> list[Rates]:
    """Train a linear head with the default penalty on each fold's training images, and evaluate it on the test images.

    As in publications on these folds, a separate head is trained for each magnification, all images have equal weight,
    and an image is classified as malignant if P(malignant) is at least 0.5. A "patient" in these publications is a
    slide of the data set.

    Args:
        index: The data set.
        folds: Folds from `bhsearch.data.layouts.breakhis_folds.resolve_folds`.
        backbone: Frozen backbone that computes the features.
        image_size: Side length of the resized images in pixels.
        feature_backend: Backend that computes the features; see `FeatureCache`.
        progress: Called with the progress of resizing the images.

    Returns:
        Recognition rates for each fold and each magnification with test images in the fold.

    Raises:
        DataError: If a fold has test images but lacks training images of a class at some magnification.
    """
    magnification = index.column("magnification")
    tested = sorted({key for fold in folds for key in magnification[fold.test]}, key=lambda key: (len(key), key))
    for key in tested:
        _check(index, folds, key)
    backend.import_backend()
    features = FeatureCache(pixel_cache(index, make_resize("crop", image_size), progress), feature_backend)
    table = features.get(backbone, IDENTITY)
    return [rate for key in tested for rate in _at_magnification(index, table, folds, key)]


def result_record(found: Sequence[Rates], folds: Sequence[ResolvedFold]) -> dict[str, Any]:
    """Return the result as a JSON-compatible dict.

    Args:
        found: Rates from `evaluate_folds`.
        folds: Folds that were evaluated.

    Returns:
        The keys are `note`, `rates`, `summaries` (mean and standard deviation over folds; the latter is None for a
        single fold) and `leaks`.
    """
    return {
        "note": OFFICIAL_NOTE,
        "rates": [asdict(row) for row in found],
        "summaries": [
            {
                "magnification": row.magnification,
                "n_folds": row.n_folds,
                "image_rate": _pair(row.image_rate),
                "recognition_rate": _pair(row.recognition_rate),
            }
            for row in summaries(found)
        ],
        "leaks": [
            {
                "fold": fold.number,
                "n_absent": fold.n_missing,
                "cases": {case: {"train": train, "test": test} for case, (train, test) in fold.leaking_cases.items()},
                "pictures": fold.leaking_images,
            }
            for fold in folds
        ],
    }


def _pair(mean_and_spread: tuple[float, float]) -> dict[str, float | None]:
    mean, spread = mean_and_spread
    return {"mean": mean, "standard_deviation": None if spread != spread else spread}


def _check(index: Dataset, folds: Sequence[ResolvedFold], magnification: str) -> None:
    here = index.column("magnification") == magnification
    for fold in folds:
        held = np.bincount(index.labels[fold.train & here], minlength=2)
        if (fold.test & here).any() and not held.all():
            raise DataError(
                f"The training images of fold {fold.number} at {magnification} lack a class: "
                f"{', '.join(f'{n} {name}' for n, name in zip(held, index.class_names, strict=True))}. Give the folder "
                "with all images of BreakHis."
            )


def _at_magnification(
    index: Dataset, table: np.ndarray, folds: Sequence[ResolvedFold], magnification: str
) -> list[Rates]:
    """Train the heads of all folds of one magnification together, and return their rates."""
    here = index.column("magnification") == magnification
    label, patient, features = index.labels[here], index.column("slide")[here], table[here]
    used = [fold for fold in folds if (fold.test & here).any()]
    held_out = [np.flatnonzero(fold.test[here]) for fold in used]
    padded = np.stack([np.resize(rows, max(map(len, held_out))) for rows in held_out])
    weights = np.stack([fold.train[here] for fold in used], axis=1).astype(np.float64)
    statistics = standardisation([Moments.of(features, weights)])
    path = fit_path(features, label, weights, *statistics, [10.0**-LOG10_PENALTY.start])
    logits = Heads.of_linear(path.kernel[0, :, :, 0], path.bias[0, :, 0]).held_out_logits(features, padded)
    found = []
    for fold, rows, row in zip(used, held_out, logits, strict=True):
        called = row[: len(rows)] >= 0.0  # a logit of 0 is a probability of 0.5
        found.append(recognition_rates(fold.number, magnification, called == (label[rows] == 1), patient[rows]))
    return found
