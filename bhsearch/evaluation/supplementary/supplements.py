"""Supplementary statistics of a test or of out-of-fold predictions, which the search does not use.

They are computed for the sealed test and, in the report, for the proposed trial. Other trials do not have them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bhsearch.evaluation.bootstrap import Interval, bootstrap_auc, bootstrap_metric, interval
from bhsearch.evaluation.metrics import Metric, fold_scores
from bhsearch.evaluation.supplementary.calibration_slope import (
    weighted_calibration_intercept,
    weighted_calibration_slope,
)
from bhsearch.evaluation.thresholds import HardLabels
from bhsearch.text import plural

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import IntArray, Predictions

CALIBRATION_SLOPE, CALIBRATION_INTERCEPT = "calibration_slope", "calibration_intercept"
_CALIBRATION = {
    metric.name: metric
    for metric in (
        Metric(CALIBRATION_SLOPE, "calibration slope", weighted_calibration_slope, low=-np.inf, high=np.inf),
        Metric(
            CALIBRATION_INTERCEPT,
            "calibration-in-the-large (intercept)",
            weighted_calibration_intercept,
            low=-np.inf,
            high=np.inf,
        ),
    )
}
CASE_AUC = "case_auc"
# Full names of the supplementary statistics, in the order of tables.
TITLES = {
    CASE_AUC: "case-level AUC (one mean probability per case)",
    **{name: metric.title for name, metric in _CALIBRATION.items()},
}
CALIBRATION_SLOPE_NOTE = (
    "A calibrated model has slope 1 and intercept 0. Slope below 1: probabilities too extreme; intercept above 0: "
    "probabilities too low on average."
)

_MOST_UNDEFINED = 0.025  # largest share of bootstrap draws without a value for which an interval is reported
_ONE_CLASS = "the images are of a single class"
_TOO_FEW = "too few cases for an interval: in many bootstrap draws the classes are separated, or one is missing"


@dataclass(frozen=True)
class Supplements:
    """Supplementary statistics.

    Attributes:
        values: Values by name, all finite.
        intervals: 95 % intervals over cases by name, for the same names as `values`.
        not_applicable: Reasons by name, for the statistics that are left out of `values`.
    """

    values: dict[str, float]
    intervals: dict[str, Interval]
    not_applicable: dict[str, str]


def supplements(predictions: Predictions, draws: IntArray) -> Supplements:
    """Compute the supplementary statistics with 95 % intervals.

    Args:
        predictions: Predictions of the sealed test, or out-of-fold predictions.
        draws: Counts from `bootstrap.group_draws` for the same images. Shape (n_draws, n_groups).
    """
    found = Supplements({}, {}, {})
    reason = _no_case_level(predictions)
    if reason:
        found.not_applicable[CASE_AUC] = reason
    else:
        cases = case_level(predictions)
        found.values[CASE_AUC] = float(np.nanmean(fold_scores(cases)))
        found.intervals[CASE_AUC] = interval(bootstrap_auc(cases, draws))
    for name, metric in _CALIBRATION.items():
        value = metric.value(predictions, HardLabels.placeholder(predictions))
        if not np.isfinite(value):
            found.not_applicable[name] = reason_not_applicable(name, predictions)
            continue
        samples = bootstrap_metric(metric, predictions, HardLabels.placeholder(predictions), draws)
        if np.mean(~np.isfinite(samples)) > _MOST_UNDEFINED:
            found.not_applicable[name] = _TOO_FEW
            continue
        found.values[name], found.intervals[name] = value, interval(samples)
    return found


def reason_not_applicable(name: str, predictions: Predictions) -> str:
    """Return the reason why predictions do not have a statistic of `TITLES`, as text without a full stop."""
    if name == CASE_AUC:
        return _no_case_level(predictions)
    if len(np.unique(predictions.label)) < 2:
        return _ONE_CLASS
    if np.isfinite(_CALIBRATION[name].value(predictions, HardLabels.placeholder(predictions))):
        return _TOO_FEW
    return "a threshold separates the classes, so the logistic regression has no finite slope"


def case_level(predictions: Predictions) -> Predictions:
    """Return predictions with one row per case: the mean probability of its images in each repeat.

    Path, subtype and magnification are empty, since images of a case may differ in them.

    Args:
        predictions: Predictions in which all images of a group have one label and, in each repeat, one fold.
    """
    _, first, number = np.unique(predictions.group, return_index=True, return_inverse=True)
    n_images = np.bincount(number)
    blank = np.full(len(first), "", dtype=object)
    return replace(
        predictions,
        probability=np.stack([np.bincount(number, row) / n_images for row in predictions.probability]),
        label=predictions.label[first],
        fold=predictions.fold[:, first],
        group=predictions.group[first],
        stratum=predictions.stratum[first],
        case=predictions.case[first],
        path=blank,
        subtype=blank,
        magnification=blank,
    )


def _no_case_level(predictions: Predictions) -> str:
    """Return the reason why predictions have no case-level AUC; empty if they have one."""
    _, first, number = np.unique(predictions.group, return_index=True, return_inverse=True)
    mixed = len(np.unique(number[predictions.label != predictions.label[first][number]]))
    if mixed:
        return f"{mixed} of {plural(len(first), 'case')} have images of both classes"
    if (predictions.fold != predictions.fold[:, first][:, number]).any():
        return "images of a case are in several folds"
    return "" if np.isfinite(fold_scores(predictions)).any() else _ONE_CLASS
