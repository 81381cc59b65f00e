"""ROC and precision-recall curves as arrays: points per fold, means over folds, and bands over resampled cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.metrics import cumulative_counts, iter_folds
from bhsearch.evaluation.predictions import FloatArray, IntArray, Predictions

N_GRID = 101
# Sums of weights such as 1/7 miss round numbers by a few units in the last place; a grid point must not fall on one
# side of a vertical step in one draw and on the other side in the next.
_NUDGE = 1e-9
_Interpolation = Callable[[FloatArray, FloatArray], FloatArray]


@dataclass(frozen=True, eq=False)
class Band:
    """A curve averaged over folds, with a pointwise 95 % band over resampled cases.

    Attributes:
        x: Grid from 0 to 1: false positive rate, or recall. Shape (N_GRID,).
        mean: True positive rate, or precision; mean over the folds. Shape (N_GRID,).
        low, high: Ends of the band, nan without draws. Shape (N_GRID,).
        base: Performance of guessing: 0.5 (area) for ROC, the case-weighted malignant share for precision.
    """

    x: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    base: float

    @property
    def has_interval(self) -> bool:
        """Whether the band has ends."""
        return bool(np.isfinite(self.low).all())


def roc_points(predictions: Predictions) -> dict[str, npt.NDArray[np.generic]]:
    """Return the case-weighted ROC curve of every fold as columns of one table.

    Returns:
        `repeat`, `fold`, `threshold`, `false_positive_rate`, `true_positive_rate`. A row has the rates at which
        images of at least that probability are called malignant; each fold starts at threshold inf with rates of 0.
        Folds with one class are left out.
    """
    columns: dict[str, list[npt.NDArray[np.generic]]] = {
        name: [] for name in ("repeat", "fold", "threshold", "false_positive_rate", "true_positive_rate")
    }
    for repeat, fold, rows in iter_folds(predictions):
        tp, fp, thresholds = cumulative_counts(
            predictions.label[rows], predictions.probability[repeat, rows], predictions.weight[repeat, rows]
        )
        if not (tp[-1] > 0 and fp[-1] > 0):
            continue
        n = len(thresholds)
        values = (np.full(n, repeat), np.full(n, fold), thresholds, fp / fp[-1], tp / tp[-1])
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    return {name: np.concatenate(values) if values else np.array([]) for name, values in columns.items()}


def roc_band(predictions: Predictions, draws: IntArray | None = None) -> Band:
    """Return the mean ROC curve over folds on a grid of false positive rates, with its band.

    Args:
        predictions: Out-of-fold predictions.
        draws: Counts from `group_draws`; 200 are enough for a figure. None for no band. Shape (n_draws, n_groups).
    """
    return _band(predictions, draws, _true_positive_rate, 0.5)


def precision_recall_band(predictions: Predictions, draws: IntArray | None = None) -> Band:
    """Return the mean precision over folds on a grid of recalls, with its band.

    Precision at a recall is that of the first threshold that reaches it, so that the area under a fold's curve is its
    average precision. The band's `base` is the malignant share of the case weights.

    Args:
        predictions: Out-of-fold predictions.
        draws: As in `roc_band`.
    """
    base = float(np.average(np.tile(predictions.label, predictions.n_repeats), weights=predictions.weight.ravel()))
    return _band(predictions, draws, _precision, base)


def _band(predictions: Predictions, draws: IntArray | None, interpolate: _Interpolation, base: float) -> Band:
    """Average a curve over the folds that keep both classes; the first row of counts is the data as observed."""
    grid = np.linspace(0.0, 1.0, N_GRID)
    _, number = np.unique(predictions.group, return_inverse=True)
    observed = np.ones((1, number.max() + 1), dtype=np.int64)
    counts = observed if draws is None else np.concatenate([observed, draws])
    total, n_kept = np.zeros((len(counts), N_GRID)), np.zeros(len(counts))
    for repeat, _, rows in iter_folds(predictions):
        weight = predictions.weight[repeat, rows] * counts[:, number[rows]]
        tp, fp, _ = cumulative_counts(predictions.label[rows], predictions.probability[repeat, rows], weight)
        kept = (tp[:, -1] > 0) & (fp[:, -1] > 0)
        if kept.any():
            total[kept] += interpolate(tp[kept], fp[kept])
            n_kept += kept
    curve = np.divide(total, n_kept[:, None], out=np.full_like(total, np.nan), where=n_kept[:, None] > 0)
    sampled = curve[1:][n_kept[1:] > 0]
    low, high = np.quantile(sampled, [0.025, 0.975], axis=0) if len(sampled) else np.full((2, N_GRID), np.nan)
    return Band(grid, curve[0], low, high, base)


def _true_positive_rate(tp: FloatArray, fp: FloatArray) -> FloatArray:
    """Interpolate the true positive rate of every draw at the grid's false positive rates. Shape (n_draws, N_GRID)."""
    grid = np.linspace(0.0, 1.0, N_GRID) + _NUDGE
    rise, run = tp / tp[:, -1:], fp / fp[:, -1:]
    # One call for all draws: draw d is moved to the interval [2d, 2d + 1], so that no two overlap.
    offset = 2.0 * np.arange(len(tp))[:, None]
    grid[-1] = 1.0
    return np.interp((grid + offset).ravel(), (run + offset).ravel(), rise.ravel()).reshape(len(tp), -1)


def _precision(tp: FloatArray, fp: FloatArray) -> FloatArray:
    """Return the precision of every draw where it first reaches each recall of the grid. Shape (n_draws, N_GRID)."""
    grid = np.maximum(np.linspace(0.0, 1.0, N_GRID) - _NUDGE, _NUDGE)
    recall = tp / tp[:, -1:]
    called = tp + fp
    precision = np.divide(tp, called, out=np.ones_like(tp), where=called > 0)
    offset = 2.0 * np.arange(len(tp))[:, None]
    first = np.searchsorted((recall + offset).ravel(), (grid + offset).ravel(), side="left")
    return np.asarray(precision.ravel()[first].reshape(len(tp), -1))
