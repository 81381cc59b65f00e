"""Case-weighted metrics of out-of-fold predictions: exact with ties, and fast enough for every epoch of every trial."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.predictions import FloatArray, Predictions
from bhsearch.evaluation.thresholds import HardLabels, cross_fitted_labels

N_CALIBRATION_BINS = 10
AUC = "auc"  # the score
# Metrics of a part of the images are named by kind and part; MLflow makes a section of each kind.
MAGNIFICATION, RECALL = "magnification/", "recall/"
Metric = Callable[[npt.NDArray[np.int8], npt.NDArray[Any], FloatArray], FloatArray]


def weighted_auc(label: npt.NDArray[np.int8], probability: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Area under the weighted ROC curve: the chance that a malignant image outranks a benign one, a tie counting half.

    Args:
        label: 0 or 1. Shape (n,).
        probability: Anything that ranks the images; higher is more malignant. Shape (..., n).
        weight: Weight per image, 0 or more. Shape (..., n), broadcast against `probability`. Sorting is done once
            where only weights vary.

    Returns:
        One AUC per leading index; nan where a class has no weight or a probability is nan. Shape (...).

    Source:
        Weighted Mann-Whitney statistic; equals scikit-learn's `roc_auc_score(sample_weight=)`.
    """
    order = np.argsort(probability, axis=-1)
    ranked = np.take_along_axis(probability, order, axis=-1)
    positive = _ranked(weight * label, order)
    negative = _ranked(weight * (1.0 - label), order)
    through = np.cumsum(negative, axis=-1)
    n_positive, n_negative = positive.sum(axis=-1), through[..., -1].copy()
    below = through - negative
    rises = ranked[..., 1:] != ranked[..., :-1]
    if not rises.all():
        # Within a tie every image gets what lies below the tie and what lies below its end. Both sums only grow, so
        # carrying a tie's first value forward is a running maximum, and its last value backward a running minimum.
        below[..., 1:] = np.where(rises, below[..., 1:], 0.0)
        below = np.maximum.accumulate(below, axis=-1)
        through[..., :-1] = np.where(rises, through[..., :-1], np.inf)
        through = np.minimum.accumulate(through[..., ::-1], axis=-1)[..., ::-1]
    wins = 0.5 * np.einsum("...i,...i->...", positive, below + through)
    with np.errstate(divide="ignore", invalid="ignore"):
        area = wins / (n_positive * n_negative)
    return np.asarray(np.where(np.isnan(ranked[..., -1]), np.nan, area))  # nan sorts last


def _ranked(values: FloatArray, order: npt.NDArray[np.intp]) -> FloatArray:
    """Put values of shape (..., n) into an order of shape (..., n), either of which may be one row for all."""
    if order.ndim == 1:
        return np.asarray(values[..., order])
    if values.ndim == 1:
        return np.asarray(values[order])
    shape = np.broadcast_shapes(values.shape, order.shape)
    return np.take_along_axis(np.broadcast_to(values, shape), np.broadcast_to(order, shape), axis=-1)


def weighted_average_precision(
    label: npt.NDArray[np.int8], probability: npt.NDArray[Any], weight: FloatArray
) -> FloatArray:
    """Average precision: precision at each new probability, weighted by the recall gained there.

    Args:
        label: 0 or 1. Shape (n,).
        probability: Anything that ranks the images. Shape (n,).
        weight: Weight per image, 0 or more. Shape (n,).

    Returns:
        A scalar array in [0, 1]; nan where the malignant class has no weight.

    Source:
        scikit-learn's definition in `average_precision_score(sample_weight=)`, no interpolation.
    """
    order = np.argsort(-probability)
    ends = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)
    found = np.cumsum((weight * label)[order])[ends]
    chosen = np.cumsum(weight[order])[ends]
    if found[-1] == 0:
        return np.asarray(np.nan)
    precision = np.divide(found, chosen, out=np.zeros_like(found), where=chosen > 0)
    return np.asarray(np.sum(np.diff(found, prepend=0.0) * precision) / found[-1])


def fold_scores(predictions: Predictions, metric: Metric = weighted_auc) -> FloatArray:
    """A ranking metric of every validation part; the weighted AUC unless another one is named.

    Returns:
        Shape (R, K); nan for a part without one of the classes.
    """
    scores = np.full((predictions.n_repeats, predictions.n_folds), np.nan)
    for repeat, fold, rows in iter_folds(predictions):
        scores[repeat, fold] = metric(
            predictions.label[rows], predictions.probability[repeat, rows], predictions.weight[repeat, rows]
        )
    return scores


def iter_folds(predictions: Predictions) -> Iterator[tuple[int, int, npt.NDArray[np.intp]]]:
    """Every validation part that holds an image: repeat, fold, and its row numbers."""
    for repeat in range(predictions.n_repeats):
        for fold in range(predictions.n_folds):
            rows = np.flatnonzero(predictions.fold[repeat] == fold)
            if len(rows):
                yield repeat, fold, rows


def score(predictions: Predictions) -> float:
    """The score of a trial: the mean over its R x K folds of the weighted AUC.

    It is nan if a fold lacks a class: the split promises both, so that a hole here is an error, not a detail.
    """
    return float(fold_scores(predictions).mean())


def epoch_scores(
    probability: npt.NDArray[Any],
    label: npt.NDArray[np.int8],
    fold: npt.NDArray[np.int8],
    weight: FloatArray,
) -> FloatArray:
    """The score after every epoch, for learning curves.

    Args:
        probability: Out-of-fold P(malignant) after each epoch. Shape (E, R, n).
        label: 0 or 1. Shape (n,).
        fold: Validation fold. Shape (R, n).
        weight: From `image_weights(group, fold)`. Shape (R, n).

    Returns:
        Mean over the R x K folds; the last one is the trial's score. nan where training diverged. Shape (E,).
    """
    columns = [
        weighted_auc(label[rows], probability[:, repeat, rows], weight[repeat, rows])
        for repeat in range(fold.shape[0])
        for rows in (np.flatnonzero(fold[repeat] == number) for number in range(int(fold.max()) + 1))
        if len(rows)
    ]
    return np.asarray(np.mean(columns, axis=0))


def calibration_bins(predictions: Predictions) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Predicted against observed in equal-width bins of probability, every part and group counting the same.

    Returns:
        Per repeat and bin: share of the weight, mean probability, share of malignant; the last two are nan where a
        bin is empty. Each of shape (R, N_CALIBRATION_BINS).
    """
    probability = predictions.probability.astype(np.float64)
    place = np.minimum((probability * N_CALIBRATION_BINS).astype(np.int64), N_CALIBRATION_BINS - 1)
    place += np.arange(predictions.n_repeats)[:, None] * N_CALIBRATION_BINS

    def summed(values: FloatArray) -> FloatArray:
        size = predictions.n_repeats * N_CALIBRATION_BINS
        sums = np.bincount(place.ravel(), values.ravel(), minlength=size)
        return np.asarray(sums, dtype=np.float64).reshape(-1, N_CALIBRATION_BINS)

    mass = summed(predictions.weight)
    with np.errstate(invalid="ignore"):
        mean = summed(predictions.weight * probability) / mass
        share = summed(predictions.weight * predictions.label) / mass
    return mass / mass.sum(axis=1, keepdims=True), mean, share


def trial_metrics(predictions: Predictions, decisions: HardLabels | None = None) -> dict[str, float]:
    """Every metric of a finished trial, except its intervals and its seconds.

    AUC and average precision are means over folds. The rest is pooled over the folds of a repeat, each image with its
    case weight, then averaged over repeats; what needs a threshold takes the cross-fitted one of the image's fold.

    Args:
        predictions: Out-of-fold predictions, or those of the sealed test as a single fold.
        decisions: Made with a threshold that was fixed elsewhere; None for cross-fitted ones.

    Returns:
        `auc`, `auc_fold_std` (standard deviation over the R x K folds, ddof 1), `average_precision`,
        `balanced_accuracy`, `sensitivity`, `specificity`, `f1`, `brier`, `ece` (10 equal-width bins),
        `recognition_rate` (Spanhol et al. 2016: share of right images of a case, mean over cases), then
        `magnification/<magnification>` (AUC) and `recall/<subtype>` for those known.
    """
    folds = fold_scores(predictions)
    decisions = cross_fitted_labels(predictions) if decisions is None else decisions
    error = (predictions.probability.astype(np.float64) - predictions.label) ** 2
    mass, mean, share = calibration_bins(predictions)
    gaps = np.where(mass > 0, mass * np.abs(mean - share), 0.0)
    return {
        AUC: float(folds.mean()),
        "auc_fold_std": float(folds.std(ddof=1)) if folds.size > 1 else 0.0,
        "average_precision": float(fold_scores(predictions, weighted_average_precision).mean()),
        **_threshold_metrics(predictions, decisions),
        "brier": float(np.average(error, axis=1, weights=predictions.weight).mean()),
        "ece": float(gaps.sum(axis=1).mean()),
        "recognition_rate": _recognition_rate(predictions, decisions.predicted == predictions.label),
        **_magnification_metrics(predictions),
        **_subtype_metrics(predictions, decisions),
    }


def confusion(predictions: Predictions, predicted: npt.NDArray[np.int8], weight: FloatArray) -> FloatArray:
    """Weight of each true label (rows) under each predicted label (columns), per repeat. Shape (R, 2, 2)."""
    cell = 2 * predictions.label + predicted
    counts = [np.bincount(row, values, minlength=4) for row, values in zip(cell, weight, strict=True)]
    return np.array(counts, dtype=np.float64).reshape(-1, 2, 2)


def _threshold_metrics(predictions: Predictions, decisions: HardLabels) -> dict[str, float]:
    """Metrics of hard decisions, from the case-weighted confusion matrix of each repeat."""
    matrix = confusion(predictions, decisions.predicted, predictions.weight)
    with np.errstate(invalid="ignore"):
        specificity, sensitivity = np.moveaxis(matrix.diagonal(axis1=1, axis2=2) / matrix.sum(axis=2), 1, 0)
    hits, misses, alarms = matrix[:, 1, 1], matrix[:, 1, 0], matrix[:, 0, 1]
    f1 = 2 * hits / np.maximum(2 * hits + misses + alarms, np.finfo(float).tiny)
    return {
        "balanced_accuracy": float((sensitivity + specificity).mean() / 2),
        "sensitivity": float(sensitivity.mean()),
        "specificity": float(specificity.mean()),
        "f1": float(f1.mean()),
    }


def _recognition_rate(predictions: Predictions, right: npt.NDArray[np.bool_]) -> float:
    """Mean over groups of the share of right images, mean over repeats (Spanhol et al. 2016, equations 1 and 2)."""
    _, number = np.unique(predictions.group, return_inverse=True)
    size = np.bincount(number)
    return float(np.mean([(np.bincount(number, row) / size).mean() for row in right.astype(np.float64)]))


def _magnification_metrics(predictions: Predictions) -> dict[str, float]:
    """`magnification/<name>`: mean AUC over the parts where it holds both classes, every case counting the same."""
    found = {}
    for name in sorted(set(predictions.magnification) - {""}):
        folds = fold_scores(predictions.select(predictions.magnification == name))
        if np.isfinite(folds).any():
            found[f"{MAGNIFICATION}{metric_name(name)}"] = float(np.nanmean(folds))
    return found


def _subtype_metrics(predictions: Predictions, decisions: HardLabels) -> dict[str, float]:
    """`recall/<subtype>`: share of its images that were called right, every case counting the same."""
    found = {}
    right = decisions.predicted == predictions.label
    for name in sorted(set(predictions.subtype) - {""}):
        rows = predictions.subtype == name
        found[f"{RECALL}{metric_name(name)}"] = _recognition_rate(predictions.select(rows), right[:, rows])
    return found


def metric_name(name: str) -> str:
    """What MLflow allows in a metric's name: letters, digits, `_`, `-`, `.`, `/` and space; else `_`."""
    return re.sub(r"[^A-Za-z0-9_\-./ ]", "_", name)
