"""ROC and precision-recall curves as arrays: points per fold, means over folds, and bootstrap confidence bands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.bootstrap import with_observed
from bhsearch.evaluation.metrics import cumulative_counts, iter_folds
from bhsearch.evaluation.predictions import FloatArray, IntArray, Predictions
from bhsearch.evaluation.reliable_intervals import single_case_class

N_GRID = 101
# Shift of grid points. The last digits of sums of weights such as 1/7 vary, and without the shift a grid point could be
# on different sides of a vertical step in different draws.
_NUDGE = 1e-9
_MOST_EXACT, _N_THINNED = 8192, 4096  # images of a fold with exact curves; thresholds of larger folds
_MOST_CELLS = 1 << 23  # of groups and thresholds
_Interpolation = Callable[[FloatArray, FloatArray], FloatArray]


@dataclass(frozen=True, eq=False)
class Band:
    """Curve averaged over folds, with a pointwise 95 % confidence band from a bootstrap over cases.

    Attributes:
        x: Grid from 0 to 1 of false positive rates (ROC) or recalls. Shape (N_GRID,).
        mean: Mean over folds of the true positive rate (ROC) or precision. Shape (N_GRID,).
        low, high: Lower and upper end of the confidence band; nan if the curve has none. Shape (N_GRID,).
        base: Performance of random guessing: the area 0.5 for ROC, or the case-weighted malignant share for precision.
    """

    x: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    base: float

    @property
    def has_interval(self) -> bool:
        """Whether the curve has a confidence band."""
        return bool(np.isfinite(self.low).all())


def roc_points(predictions: Predictions) -> dict[str, npt.NDArray[np.generic]]:
    """Return the case-weighted ROC curves of all folds as one table.

    Returns:
        Columns `repeat`, `fold`, `threshold`, `false_positive_rate` and `true_positive_rate`. The rates in a row apply
        if images with a probability of at least `threshold` are classified as malignant. Each fold starts with the
        threshold inf, at which both rates are 0. Folds with a single class are left out. Of folds with more than 8,192
        images, 4,096 thresholds are listed.
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
        if len(rows) > _MOST_EXACT:
            some = np.unique(np.linspace(0, len(thresholds) - 1, _N_THINNED + 1).astype(np.intp))
            tp, fp, thresholds = tp[some], fp[some], thresholds[some]
        n = len(thresholds)
        values = (np.full(n, repeat), np.full(n, fold), thresholds, fp / fp[-1], tp / tp[-1])
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    return {name: np.concatenate(values) if values else np.array([]) for name, values in columns.items()}


def roc_band(predictions: Predictions, draws: IntArray | None = None) -> Band:
    """Return the mean ROC curve over folds on a grid of false positive rates, with a 95 % confidence band.

    Args:
        predictions: Out-of-fold predictions.
        draws: Counts from `group_draws`; 200 bootstrap samples are enough for a figure. None for a curve without a
            confidence band. Shape (n_draws, n_groups).
    """
    return _band(predictions, draws, _true_positive_rate, 0.5)


def precision_recall_band(predictions: Predictions, draws: IntArray | None = None) -> Band:
    """Return the mean precision over folds on a grid of recalls, with a 95 % confidence band.

    The precision at a recall is the precision at the highest threshold that reaches this recall, so that the area under
    the curve of a fold is the fold's average precision.

    Args:
        predictions: Out-of-fold predictions.
        draws: See `roc_band`.
    """
    return _band(predictions, draws, _precision, malignant_share(predictions))


def malignant_share(predictions: Predictions) -> float:
    """Return the case-weighted share of malignant images, over all repeats."""
    return float(np.average(np.tile(predictions.label, predictions.n_repeats), weights=predictions.weight.ravel()))


def _band(predictions: Predictions, draws: IntArray | None, interpolate: _Interpolation, base: float) -> Band:
    """Average a curve over the folds with both classes, on the observed data and on each bootstrap sample.

    The thresholds of large folds are thinned; see `_thinned`.
    """
    grid = np.linspace(0.0, 1.0, N_GRID)
    counts, number = with_observed(predictions.group, None if single_case_class(predictions) else draws)
    total, n_kept = np.zeros((len(counts), N_GRID)), np.zeros(len(counts))
    for repeat, _, rows in iter_folds(predictions):
        probability = _thinned(predictions.probability[repeat, rows])
        tp, fp = _counts_by_group(
            predictions.label[rows], probability, predictions.weight[repeat, rows], number[rows], counts
        )
        kept = (tp[:, -1] > 0) & (fp[:, -1] > 0)
        if kept.any():
            total[kept] += interpolate(tp[kept], fp[kept])
            n_kept += kept
    curve = np.divide(total, n_kept[:, None], out=np.full_like(total, np.nan), where=n_kept[:, None] > 0)
    sampled = curve[1:][n_kept[1:] > 0]
    low, high = np.quantile(sampled, [0.025, 0.975], axis=0) if len(sampled) else np.full((2, N_GRID), np.nan)
    return Band(grid, curve[0], low, high, base)


def _thinned(probability: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return probabilities, which in large folds are raised to the next of 4,096 quantiles.

    A curve then has as many points, between which it is interpolated; the difference cannot be seen in a figure.
    """
    exact = np.asarray(probability, np.float64)
    if len(exact) <= _MOST_EXACT:
        return exact
    edges = np.quantile(exact, np.linspace(0.0, 1.0, _N_THINNED), method="higher")
    return np.asarray(edges[np.searchsorted(edges, exact)])


def _counts_by_group(
    label: npt.NDArray[np.int8],
    probability: FloatArray,
    weight: FloatArray,
    number: npt.NDArray[np.intp],
    counts: IntArray,
) -> tuple[FloatArray, FloatArray]:
    """Return the weights of true and false positives at every threshold on each bootstrap sample.

    The weights are first summed per group, of which there are far fewer than images, and then weighted by the counts.

    Args:
        label: 0 or 1. Shape (n_rows,).
        probability: P(malignant). Shape (n_rows,).
        weight: Weight of each image. Shape (n_rows,).
        number: Column of each image's group in `counts`. Shape (n_rows,).
        counts: Number of times each group was drawn. Shape (n_draws, n_groups).

    Returns:
        See `cumulative_counts`. Shape (n_draws, 1 + n_distinct) each.
    """
    thresholds, place = np.unique(-probability, return_inverse=True)
    groups, of_group = np.unique(number, return_inverse=True)
    if len(groups) * len(thresholds) > _MOST_CELLS:  # few images of each group, so that nothing is gained
        tp, fp, _ = cumulative_counts(label, probability, weight * counts[:, number])
        return tp, fp
    shape = (len(groups), 1 + len(thresholds))
    cell = of_group * shape[1] + 1 + place
    drawn = counts[:, groups].astype(np.float64)
    tp, fp = (
        drawn @ np.cumsum(np.bincount(cell, weight * (label == value), shape[0] * shape[1]).reshape(shape), axis=1)
        for value in (1, 0)
    )
    return tp, fp


def _true_positive_rate(tp: FloatArray, fp: FloatArray) -> FloatArray:
    """Interpolate the true positive rate of each sample at the grid's false positive rates. Shape (n_draws, N_GRID)."""
    grid = np.linspace(0.0, 1.0, N_GRID) + _NUDGE
    rise, run = tp / tp[:, -1:], fp / fp[:, -1:]
    # Shift draw d to the interval [2d, 2d + 1], so that a single call interpolates all draws.
    offset = 2.0 * np.arange(len(tp))[:, None]
    grid[-1] = 1.0
    return np.interp((grid + offset).ravel(), (run + offset).ravel(), rise.ravel()).reshape(len(tp), -1)


def _precision(tp: FloatArray, fp: FloatArray) -> FloatArray:
    """Return the precision of every sample at the first threshold that reaches each recall. Shape (n_draws, N_GRID)."""
    grid = np.maximum(np.linspace(0.0, 1.0, N_GRID) - _NUDGE, _NUDGE)
    recall = tp / tp[:, -1:]
    called = tp + fp
    precision = np.divide(tp, called, out=np.ones_like(tp), where=called > 0)
    offset = 2.0 * np.arange(len(tp))[:, None]
    first = np.searchsorted((recall + offset).ravel(), (grid + offset).ravel(), side="left")
    return np.asarray(precision.ravel()[first].reshape(len(tp), -1))
