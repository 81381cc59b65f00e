"""Intervals over resampled cases for every number of a report."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhsearch.data.stratify import strata_of
from bhsearch.evaluation import metrics
from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, interval
from bhsearch.evaluation.curves import cumulative
from bhsearch.reporting.report_data import Measured

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from bhsearch.evaluation.predictions import FloatArray, IntArray, Predictions
    from bhsearch.evaluation.thresholds import HardLabels

N_DRAWS = 1000
METRICS = {
    "auc": "AUC",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f1": "F1 score",
    "average_precision": "average precision",
    "recognition_rate": "recognition rate per case",
    "brier": "Brier score",
    "ece": "expected calibration error",
}
_Z = 1.959963984540054  # normal quantile of 0.975


@dataclass(frozen=True, eq=False)
class Points:
    """Points of a calibration curve, one for each bin of probability that holds an image.

    Attributes:
        predicted: Mean predicted probability. Shape (n,).
        observed: Share of malignant. Shape (n,).
        low, high: Ends of the 95 % interval of `observed`; nan where the images of a bin are of one case. Shape (n,).
        mass: Share of the weight. Shape (n,).
    """

    predicted: FloatArray
    observed: FloatArray
    low: FloatArray
    high: FloatArray
    mass: FloatArray


def measured(predictions: Predictions, decisions: HardLabels) -> dict[str, Measured]:
    """The metrics of `METRICS` with 95 % intervals over cases, as `trial_metrics` defines them.

    Args:
        predictions: Out of fold.
        decisions: Cross-fitted.

    Source:
        Percentile bootstrap over groups of cases; thresholds are not chosen again in a draw.
    """
    values = metrics.trial_metrics(predictions, decisions)
    draws = group_draws(predictions.group, predictions.stratum, N_DRAWS)
    samples = {
        "auc": bootstrap_scores(predictions, draws),
        "average_precision": _average_precisions(predictions, draws),
        **_thresholded(predictions, decisions, draws),
        **_calibration(predictions, draws),
    }
    return widened({name: Measured(values[name], *interval(samples[name])) for name in METRICS}, predictions)


def widened(found: Mapping[str, Measured], predictions: Predictions) -> dict[str, Measured]:
    """The same, without intervals of no width, which resampling gives where all cases are right or all are wrong.

    Shares of cases get the interval of `share_of` in their place; other metrics but the AUC, on which the gate decides,
    get none.
    """
    label, group = predictions.label, predictions.group
    n_cases = {
        name: len(np.unique(group[rows]))
        for name, rows in (("sensitivity", label == 1), ("specificity", label == 0), ("recognition_rate", label >= 0))
    }
    kept = {}
    for name, pair in found.items():
        if name == "auc" or not math.isclose(pair.low, pair.high, rel_tol=0.0, abs_tol=1e-9):
            kept[name] = pair
        else:
            kept[name] = share_of(pair.value, n_cases[name]) if name in n_cases else Measured(pair.value)
    return kept


def auc_of(predictions: Predictions) -> Measured | None:
    """AUC of a part of the images with its interval; None where no fold has both classes in it."""
    folds = metrics.fold_scores(predictions)
    if not np.isfinite(folds).any():
        return None
    _, number = np.unique(predictions.group, return_inverse=True)
    stratum = strata_of(number, predictions.label)[number]  # those of all data could leave a group alone in its own
    scores = bootstrap_scores(predictions, group_draws(number, stratum, N_DRAWS))
    ends = interval(scores) if np.isfinite(scores).any() else (math.nan, math.nan)
    return Measured(float(np.nanmean(folds)), *ends)


def share_of(share: float, n_cases: int) -> Measured:
    """A share that is a mean over cases, with its 95 % interval.

    Args:
        share: 0 to 1.
        n_cases: Cases that it is the mean of.

    Source:
        Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927, with cases as
        the sample: a share of a case varies no more than a single right or wrong answer, so that this is never too
        narrow, and it is sound for few cases and where all are right, which resampling is not.
    """
    square = _Z**2 / n_cases
    middle = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(share * (1 - share) / n_cases + square / (4 * n_cases))
    return Measured(share, max(middle - half, 0.0), min(middle + half, 1.0))


def calibration_points(predictions: Predictions) -> Points:
    """The calibration curve in bins of equal width, repeats pooled, with intervals over resampled cases."""
    draws = group_draws(predictions.group, predictions.stratum, N_DRAWS)
    mass, predicted, observed = (
        _by_bin(predictions, values)
        for values in (
            np.ones_like(predictions.weight),
            predictions.probability.astype(np.float64),
            np.broadcast_to(predictions.label, predictions.weight.shape).astype(np.float64),
        )
    )
    total = mass.sum(axis=0)
    filled = total > 0
    drawn = draws @ mass[:, filled]
    share = np.divide(draws @ observed[:, filled], drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)
    alone = (mass[:, filled] > 0).sum(axis=0) < 2
    share[:, alone] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a bin of nothing but nan
        low, high = np.nanquantile(share, [0.025, 0.975], axis=0)
    return Points(
        predicted.sum(axis=0)[filled] / total[filled],
        observed.sum(axis=0)[filled] / total[filled],
        low,
        high,
        total[filled] / total.sum(),
    )


def _sums(predictions: Predictions, values: npt.NDArray[np.float64]) -> FloatArray:
    """Case-weighted sums over the images of each group. `values`: (R, n); shape (n_groups, R)."""
    _, number = np.unique(predictions.group, return_inverse=True)
    size = number.max() + 1
    rows = predictions.weight * values
    return np.stack([np.bincount(number, row, minlength=size) for row in rows], axis=1)


def _by_bin(predictions: Predictions, values: npt.NDArray[np.float64]) -> FloatArray:
    """The same by bin of probability, repeats pooled. Shape (n_groups, n_bins)."""
    place = _bins(predictions)
    return np.stack(
        [_sums(predictions, values * (place == k)).sum(axis=1) for k in range(metrics.N_CALIBRATION_BINS)], axis=1
    )


def _bins(predictions: Predictions) -> IntArray:
    """Bin of each image, as in `metrics.calibration_bins`. Shape (R, n)."""
    n_bins = metrics.N_CALIBRATION_BINS
    return np.minimum((predictions.probability.astype(np.float64) * n_bins).astype(np.int64), n_bins - 1)


def _thresholded(predictions: Predictions, decisions: HardLabels, draws: IntArray) -> dict[str, FloatArray]:
    """Metrics of hard decisions under every draw, mean over repeats. Each of shape (n_draws,)."""
    label = np.broadcast_to(predictions.label, decisions.predicted.shape).astype(np.float64)
    predicted = decisions.predicted.astype(np.float64)
    hits, positives, spared, negatives = (
        draws @ _sums(predictions, values)
        for values in (label * predicted, label, (1 - label) * (1 - predicted), 1 - label)
    )
    right = _by_group(predictions, (decisions.predicted == predictions.label).astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = hits / positives, spared / negatives
        return {
            "sensitivity": sensitivity.mean(axis=1),
            "specificity": specificity.mean(axis=1),
            "balanced_accuracy": ((sensitivity + specificity) / 2).mean(axis=1),
            "f1": (2 * hits / (hits + positives + negatives - spared)).mean(axis=1),
            "recognition_rate": draws @ right / draws.sum(axis=1),
        }


def _by_group(predictions: Predictions, values: npt.NDArray[np.float64]) -> FloatArray:
    """Mean over the images of each group and over repeats. Shape (n_groups,)."""
    _, number = np.unique(predictions.group, return_inverse=True)
    means: FloatArray = np.bincount(number, values.mean(axis=0)) / np.bincount(number)
    return means


def _calibration(predictions: Predictions, draws: IntArray) -> dict[str, FloatArray]:
    """Brier score and expected calibration error under every draw. Each of shape (n_draws,)."""
    probability = predictions.probability.astype(np.float64)
    error = probability - predictions.label
    total = draws @ _sums(predictions, np.ones_like(probability))
    place = _bins(predictions)
    gaps = sum(np.abs(draws @ _sums(predictions, error * (place == k))) for k in range(metrics.N_CALIBRATION_BINS))
    return {
        "brier": (draws @ _sums(predictions, error**2) / total).mean(axis=1),
        "ece": (gaps / total).mean(axis=1),
    }


def _average_precisions(predictions: Predictions, draws: IntArray) -> FloatArray:
    """Average precision under every draw, mean over the folds that hold malignant images in it. Shape (n_draws,)."""
    _, number = np.unique(predictions.group, return_inverse=True)
    total, n_kept = np.zeros(len(draws)), np.zeros(len(draws))
    for repeat, _, rows in metrics.iter_folds(predictions):
        weight = predictions.weight[repeat, rows] * draws[:, number[rows]]
        found, alarms, _ = cumulative(predictions, repeat, rows, weight)
        kept = found[:, -1] > 0
        chosen = found[kept, 1:] + alarms[kept, 1:]
        precision = np.divide(found[kept, 1:], chosen, out=np.zeros_like(chosen), where=chosen > 0)
        total[kept] += (np.diff(found[kept], axis=1) * precision).sum(axis=1) / found[kept, -1]
        n_kept += kept
    return np.asarray(np.divide(total, n_kept, out=np.full(len(draws), np.nan), where=n_kept > 0))
