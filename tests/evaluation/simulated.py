"""Simulated out-of-fold predictions: cases of 1 to 70 images, each case with its own shift."""

from __future__ import annotations

import dataclasses

import numpy as np

from bhsearch.evaluation.predictions import Predictions


def simulate(n_cases: int = 26, n_repeats: int = 1, n_folds: int = 5, seed: int = 0, largest: int = 70) -> Predictions:
    rng = np.random.default_rng(seed)
    size = rng.integers(1, largest + 1, n_cases)
    malignant = (np.arange(n_cases) % 5 < 3).astype(np.int8)
    group = np.repeat(np.arange(n_cases), size) * 3  # development groups are numbered with gaps
    label = np.repeat(malignant, size)
    n = len(label)
    fold = np.zeros((n_repeats, n), dtype=np.int8)
    for repeat in range(n_repeats):
        place = np.zeros(n_cases, dtype=np.int8)
        for value in (0, 1):
            members = rng.permutation(np.flatnonzero(malignant == value))
            place[members] = np.arange(len(members)) % n_folds
        fold[repeat] = np.repeat(place, size)
    shift = np.repeat(rng.normal(size=(n_repeats, n_cases)), size, axis=1)
    logit = 1.4 * (label - 0.5) + 0.8 * shift + rng.normal(size=(n_repeats, n))
    probability = np.round(1 / (1 + np.exp(-logit)), 3)  # rounding makes ties
    subtype = np.where(label == 1, rng.choice(["DC", "LC"], n), rng.choice(["A", "F"], n)).astype(object)
    return Predictions(
        label=label,
        probability=probability,
        fold=fold,
        group=group.astype(np.int64),
        stratum=label.astype(np.int64),
        path=np.array([f"m/{row:05d}.png" for row in range(n)], dtype=object),
        case=np.array([f"14-{number:05d}" for number in group], dtype=object),
        subtype=subtype,
        magnification=rng.choice(np.array(["40X", "100X"], dtype=object), n),
    )


def reorder(predictions: Predictions, rows: np.ndarray) -> Predictions:
    """Take rows in any order, any number of times."""
    arrays = [field.name for field in dataclasses.fields(predictions) if field.name not in ("shifted", "shift_weight")]
    return Predictions(
        **{name: getattr(predictions, name)[..., rows] for name in arrays},
        shifted={name: probability[:, rows] for name, probability in predictions.shifted.items()},
        shift_weight=predictions.shift_weight,
    )


def with_shifts(predictions: Predictions, weight: float, n_shifts: int = 3, seed: int = 0) -> Predictions:
    """The same predictions with those of shifted images, which are noisier, each to its own degree."""
    rng = np.random.default_rng(seed)
    noise = {f"shift {n}": rng.normal(0, 0.1 + 0.1 * n, predictions.probability.shape) for n in range(n_shifts)}
    shifted = {name: np.round(np.clip(predictions.probability + each, 0, 1), 3) for name, each in noise.items()}
    return dataclasses.replace(predictions, shifted=shifted, shift_weight=weight)
