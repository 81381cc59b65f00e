"""Evaluate one fixed configuration on the published folds of BreakHis, per magnification, without a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bhsearch.data.dataset import CLASS_NAMES, Dataset
from bhsearch.data.images.pixel_cache import Progress, pixel_cache
from bhsearch.data.layouts.breakhis_folds import ResolvedFold
from bhsearch.errors import DataError
from bhsearch.evaluation.breakhis_rates import Rates, recognition_rates, summaries
from bhsearch.models import backend
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.features import FeatureCache
from bhsearch.models.resize import make_resize
from bhsearch.models.training.linear_probe import Moments, fit
from bhsearch.objectives.frozen import head_params
from bhsearch.objectives.space import frozen_space, starting_point

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
    """Train the default configuration on the training images of each fold, and test it on the others.

    As in the papers, a network is trained for each magnification by itself, every image counts the same, and an image
    is called malignant from 0.5 on. What they call a patient is a slide.

    Args:
        index: The data set.
        folds: From `data.official.place`.
        backbone: Frozen; a linear head is trained on its features.
        image_size: Side in pixels.
        feature_backend: What computes features, as in `FeatureCache`.
        progress: Of resizing.

    Returns:
        Rates per fold and magnification that has images to test.

    Raises:
        DataError: If the train images of a fold lack a class at a magnification that it tests.
    """
    magnification = index.column("magnification")
    tested = sorted({key for fold in folds for key in magnification[fold.test]}, key=lambda key: (len(key), key))
    for key in tested:
        _check(index, folds, key)
    backend.import_backend()
    features = FeatureCache(pixel_cache(index, make_resize("crop", image_size), progress), feature_backend)
    table = features.get(backbone, IDENTITY)
    return [rate for key in tested for rate in _at_magnification(index, table, folds, key, backbone)]


def result_record(found: Sequence[Rates], folds: Sequence[ResolvedFold]) -> dict[str, Any]:
    """Return the result in JSON types: `note`, `rates`, `summaries` (spread None for one fold) and `leaks`."""
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
                f"the train images of fold {fold.number} at {magnification} must hold both classes, but there are "
                f"{', '.join(f'{n} {name}' for n, name in zip(held, CLASS_NAMES, strict=True))}."
            )


def _at_magnification(
    index: Dataset, table: np.ndarray, folds: Sequence[ResolvedFold], magnification: str, backbone: Backbone
) -> list[Rates]:
    """Train all folds of a magnification in one program, and return their rates."""
    here = index.column("magnification") == magnification
    label, patient, features = index.labels[here], index.column("slide")[here], table[here]
    used = [fold for fold in folds if (fold.test & here).any()]
    held_out = [np.flatnonzero(fold.test[here]) for fold in used]
    padded = np.stack([np.resize(rows, max(map(len, held_out))) for rows in held_out])
    weights = np.stack([fold.train[here] for fold in used], axis=1).astype(np.float64)
    params = head_params(starting_point(frozen_space((backbone.name,)), backbone.name))
    fitted = fit(features[None], label, weights, padded, [Moments.of(features, weights)], params, seed=0)
    logits = fitted.heads.held_out_logits(features, padded)
    found = []
    for fold, rows, row in zip(used, held_out, logits, strict=True):
        called = row[: len(rows)] >= 0.0  # logits; 0 is a probability of 0.5
        found.append(recognition_rates(fold.number, magnification, called == (label[rows] == 1), patient[rows]))
    return found
