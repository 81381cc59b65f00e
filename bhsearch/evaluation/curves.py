"""What the curves show, as arrays: ROC and precision-recall points, means over folds, and bands over cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.metrics import iter_folds
from bhsearch.evaluation.predictions import FloatArray, IntArray, Predictions

N_GRID = 101
# Sums of weights such as 1/7 miss round numbers by a few units in the last place; a grid point must not fall on one
# side of a vertical step in one draw and on the other side in the next.
_NUDGE = 1e-9
Sampler = Callable[[FloatArray, FloatArray], FloatArray]


@dataclass(frozen=True, eq=False)
class Band:
    """A curve averaged over folds, with a pointwise 95 % band over resampled cases.

    Attributes:
        x: Grid from 0 to 1: false positive rate, or recall. Shape (N_GRID,).
        mean: True positive rate, or precision; mean over the folds. Shape (N_GRID,).
        low, high: Ends of the band, nan without draws. Shape (N_GRID,).
        base: What guessing gives: 0.5 of the area for ROC, the case-weighted malignant share for precision.
    """

    x: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    base: float


def roc_points(predictions: Predictions) -> dict[str, npt.NDArray[np.generic]]:
    """The case-weighted ROC of every fold as columns of one table, for keeping beside the picture.

    Returns:
        `repeat`, `fold`, `threshold`, `false_positive_rate`, `true_positive_rate`. A row says which rates an image
        called malignant from that probability on gives; each fold starts with the threshold inf and rates of 0.
    """
    columns: dict[str, list[npt.NDArray[np.generic]]] = {
        name: [] for name in ("repeat", "fold", "threshold", "false_positive_rate", "true_positive_rate")
    }
    for repeat, fold, rows in iter_folds(predictions):
        found, alarms, cuts = cumulative(predictions, repeat, rows, predictions.weight[repeat, rows][None])
        if not (found[0, -1] > 0 and alarms[0, -1] > 0):
            continue
        values = (
            np.full(len(cuts), repeat),
            np.full(len(cuts), fold),
            cuts,
            alarms[0] / alarms[0, -1],
            found[0] / found[0, -1],
        )
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    return {name: np.concatenate(values) if values else np.array([]) for name, values in columns.items()}


def roc_band(predictions: Predictions, draws: IntArray | None = None) -> Band:
    """Mean ROC over folds on a grid of false positive rates, with its band.

    Args:
        predictions: Out-of-fold predictions.
        draws: Counts from `group_draws`; 200 are enough for a picture. None for no band. Shape (n_draws, n_groups).
    """
    return _band(predictions, draws, _true_positive_rate, 0.5)


def precision_recall_band(predictions: Predictions, draws: IntArray | None = None) -> Band:
    """Mean precision over folds on a grid of recalls, with its band; arguments as in `roc_band`.

    Precision at a recall is that of the first threshold that reaches it, so that the area under a fold's curve is its
    average precision. The band's `base` is the malignant share of the case weights.
    """
    base = float(np.average(np.tile(predictions.label, predictions.n_repeats), weights=predictions.weight.ravel()))
    return _band(predictions, draws, _precision, base)


def _band(predictions: Predictions, draws: IntArray | None, sampler: Sampler, base: float) -> Band:
    """Average a curve over the folds that keep both classes; the first row of counts is the data as they are."""
    grid = np.linspace(0.0, 1.0, N_GRID)
    _, number = np.unique(predictions.group, return_inverse=True)
    as_is = np.ones((1, number.max() + 1), dtype=np.int64)
    counts = as_is if draws is None else np.concatenate([as_is, draws])
    total, n_kept = np.zeros((len(counts), N_GRID)), np.zeros(len(counts))
    for repeat, _, rows in iter_folds(predictions):
        weight = predictions.weight[repeat, rows] * counts[:, number[rows]]
        found, alarms, _ = cumulative(predictions, repeat, rows, weight)
        kept = (found[:, -1] > 0) & (alarms[:, -1] > 0)
        if kept.any():
            total[kept] += sampler(found[kept], alarms[kept])
            n_kept += kept
    curve = np.divide(total, n_kept[:, None], out=np.full_like(total, np.nan), where=n_kept[:, None] > 0)
    sampled = curve[1:][n_kept[1:] > 0]
    low, high = np.quantile(sampled, [0.025, 0.975], axis=0) if len(sampled) else np.full((2, N_GRID), np.nan)
    return Band(grid, curve[0], low, high, base)


def cumulative(
    predictions: Predictions, repeat: int, rows: IntArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Malignant and benign weight at or above every distinct probability, from the highest down.

    Args:
        predictions: Out-of-fold predictions.
        repeat: Which repeat.
        rows: Images of one validation part. Shape (m,).
        weight: Their weights under every draw. Shape (n_draws, m).

    Returns:
        Two arrays of shape (n_draws, 1 + n_cuts) that start with 0, and the cuts, which start with inf.
    """
    probability = predictions.probability[repeat, rows].astype(np.float64)
    order = np.argsort(-probability)
    ends = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)
    malignant = predictions.label[rows][order]
    weight = weight[:, order]
    start = np.zeros((len(weight), 1))
    found, alarms = (
        np.concatenate([start, np.cumsum(weight * kind, axis=1)[:, ends]], axis=1)
        for kind in (malignant, 1 - malignant)
    )
    return found, alarms, np.concatenate([[np.inf], probability[order][ends]])


def _true_positive_rate(found: FloatArray, alarms: FloatArray) -> FloatArray:
    """Interpolate the true positive rate of every draw at the grid's false positive rates. Shape (n_draws, N_GRID)."""
    grid = np.linspace(0.0, 1.0, N_GRID) + _NUDGE
    rise, run = found / found[:, -1:], alarms / alarms[:, -1:]
    # One call for all draws: draw d is moved to the interval [2d, 2d + 1], so that none reaches into the next.
    offset = 2.0 * np.arange(len(found))[:, None]
    grid[-1] = 1.0
    return np.interp((grid + offset).ravel(), (run + offset).ravel(), rise.ravel()).reshape(len(found), -1)


def _precision(found: FloatArray, alarms: FloatArray) -> FloatArray:
    """Precision of every draw at the first cut that reaches each of the grid's recalls. Shape (n_draws, N_GRID)."""
    grid = np.maximum(np.linspace(0.0, 1.0, N_GRID) - _NUDGE, _NUDGE)
    recall = found / found[:, -1:]
    chosen = found + alarms
    precision = np.divide(found, chosen, out=np.ones_like(found), where=chosen > 0)
    offset = 2.0 * np.arange(len(found))[:, None]
    place = np.searchsorted((recall + offset).ravel(), (grid + offset).ravel(), side="left")
    return np.asarray(precision.ravel()[place].reshape(len(found), -1))
