"""Compute the numbers of a report, with confidence intervals from a bootstrap over cases."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhsearch.data.stratify import strata_of
from bhsearch.evaluation import metrics
from bhsearch.evaluation.bootstrap import Interval, bootstrap_auc, bootstrap_metric, group_draws, interval
from bhsearch.evaluation.reliable_intervals import reliable_intervals, why_no_interval, wilson
from bhsearch.evaluation.supplementary.supplements import supplements
from bhsearch.reporting.report_data import Measured

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from bhsearch.evaluation.predictions import FloatArray, Predictions
    from bhsearch.evaluation.thresholds import HardLabels
    from bhsearch.tasks.base import Task

N_DRAWS = 1000


@dataclass(frozen=True, eq=False)
class Points:
    """Points of a calibration curve, one per probability bin that contains images.

    Attributes:
        predicted: Mean predicted probability. Shape (n_points,).
        observed: Case-weighted share of malignant images. Shape (n_points,).
        low, high: Ends of the 95 % interval of `observed`; nan for bins with a single case, or if no intervals were
            computed. Shape (n_points,).
        mass: Share of the total weight in the bin. Shape (n_points,).
    """

    predicted: FloatArray
    observed: FloatArray
    low: FloatArray
    high: FloatArray
    mass: FloatArray


def measured(predictions: Predictions, decisions: HardLabels, task: Task) -> dict[str, Measured]:
    """Return all metrics of a task with 95 % confidence intervals from a bootstrap over cases.

    Args:
        predictions: Out-of-fold predictions.
        decisions: Cross-fitted labels of the same images.
        task: Task that names the metrics.

    Source:
        Percentile bootstrap over groups of cases, with thresholds fixed across bootstrap samples.
    """
    draws = group_draws(predictions.group, predictions.stratum, N_DRAWS)
    values = {
        name: Measured(
            metric.value(predictions, decisions), *interval(bootstrap_metric(metric, predictions, decisions, draws))
        )
        for name, metric in metrics.metrics_of(task).items()
    }
    return widened(values, predictions)


def supplementary(predictions: Predictions) -> dict[str, Measured]:
    """Return the supplementary statistics of out-of-fold predictions by name, with 95 % intervals over cases."""
    found = supplements(predictions, group_draws(predictions.group, predictions.stratum, N_DRAWS))
    values = {name: Measured(value, *found.intervals[name]) for name, value in found.values.items()}
    return widened(values, predictions)


def widened(found: Mapping[str, Measured], predictions: Predictions) -> dict[str, Measured]:
    """Return metrics with the intervals of `reliable_intervals`.

    Args:
        found: Metrics with bootstrap intervals by name.
        predictions: Predictions that the metrics were computed on.
    """
    pairs = reliable_intervals(
        {name: each.value for name, each in found.items()},
        {name: Interval(each.low, each.high) for name, each in found.items()},
        predictions,
    )
    return {name: Measured(found[name].value, *pair) for name, pair in pairs.items()}


def text_with_ends(value: float, ends: tuple[float, float], name: str, predictions: Predictions) -> str:
    """Return a metric as text with its interval, such as `0.850 [0.712 0.941]`, or the reason why it has none.

    Args:
        value: Value of the metric.
        ends: Ends of its interval, from `reliable_intervals`.
        name: Name of the metric.
        predictions: Predictions that the metric was computed on.
    """
    if not np.isfinite(ends).all():
        return f"{value:.3f} (no interval: {why_no_interval(name, predictions)})"
    return f"{value:.3f} [{ends[0]:.3f} {ends[1]:.3f}]"


def auc_of(predictions: Predictions) -> Measured | None:
    """Return the AUC of a subset of images with its 95 % interval; None if no fold has both classes."""
    folds = metrics.fold_scores(predictions)
    if not np.isfinite(folds).any():
        return None
    _, number = np.unique(predictions.group, return_inverse=True)
    # Strata are recomputed, because a stratum of the whole data may have only one group in the subset.
    stratum = strata_of(number, predictions.label)[number]
    scores = bootstrap_auc(predictions, group_draws(number, stratum, N_DRAWS))
    ends = interval(scores) if np.isfinite(scores).any() else (math.nan, math.nan)
    return Measured(float(np.nanmean(folds)), *ends)


def share_of(share: float, n_cases: int) -> Measured:
    """Return a share with its 95 % Wilson confidence interval, computed from the number of cases.

    Args:
        share: Mean over cases of a share within each case, 0 to 1.
        n_cases: Number of cases.
    """
    return Measured(share, *wilson(share, n_cases))


def calibration_points(predictions: Predictions) -> Points:
    """Return the calibration curve with bootstrap confidence intervals, in bins of equal width, repeats pooled."""
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
        warnings.simplefilter("ignore", RuntimeWarning)  # bins in which every draw is nan
        low, high = np.nanquantile(share, [0.025, 0.975], axis=0)
    return Points(
        predicted.sum(axis=0)[filled] / total[filled],
        observed.sum(axis=0)[filled] / total[filled],
        low,
        high,
        total[filled] / total.sum(),
    )


def pooled_points(mass: FloatArray, mean: FloatArray, share: FloatArray) -> Points:
    """Return the calibration curve without intervals, repeats pooled.

    Args:
        mass: Share of the weight in each bin, from `calibration_bins`. Shape (n_repeats, n_bins).
        mean: Mean predicted probability in each bin; nan for empty bins. Shape (n_repeats, n_bins).
        share: Share of malignant images in each bin; nan for empty bins. Shape (n_repeats, n_bins).
    """
    pooled = mass.sum(axis=0)
    filled = pooled > 0
    x, y = (np.nansum(mass * values, axis=0)[filled] / pooled[filled] for values in (mean, share))
    unknown = np.full(len(x), np.nan)
    return Points(x, y, unknown, unknown, pooled[filled] / pooled.sum())


def _sums(predictions: Predictions, values: npt.NDArray[np.float64]) -> FloatArray:
    """Return case-weighted sums over the images of each group.

    Args:
        predictions: Predictions.
        values: Value per repeat and image. Shape (n_repeats, n_images).

    Returns:
        Sums. Shape (n_groups, n_repeats).
    """
    _, number = np.unique(predictions.group, return_inverse=True)
    size = number.max() + 1
    rows = predictions.weight * values
    return np.stack([np.bincount(number, row, minlength=size) for row in rows], axis=1)


def _by_bin(predictions: Predictions, values: npt.NDArray[np.float64]) -> FloatArray:
    """Return case-weighted sums by group and probability bin, with repeats pooled. Shape (n_groups, n_bins)."""
    place = metrics.calibration_bin(predictions.probability)
    return np.stack(
        [_sums(predictions, values * (place == k)).sum(axis=1) for k in range(metrics.N_CALIBRATION_BINS)], axis=1
    )
