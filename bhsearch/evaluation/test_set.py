"""The sealed test of one model: metrics at a threshold fixed beforehand, each with its interval over cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation import metrics
from bhsearch.evaluation.bootstrap import Interval, bootstrap_scores, group_draws, interval
from bhsearch.evaluation.logged_metrics import logged_metrics, metric_draws
from bhsearch.evaluation.predictions import FloatArray, IntArray, Predictions
from bhsearch.evaluation.thresholds import HardLabels

N_DRAWS = 1000
TEST = "test/"  # metrics of the sealed test
# The metrics of a test in full.
NAMES = {
    "auc": "area under the ROC curve (AUC)",
    "average_precision": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f1": "F1 score",
    "recognition_rate": "patient recognition rate",
    "brier": "Brier score",
    "brier_uncalibrated": "Brier score before calibration",
    "ece": "expected calibration error",
    "ece_uncalibrated": "expected calibration error before calibration",
}


@dataclass(frozen=True, eq=False)
class TestResult:
    """What a test gave.

    Attributes:
        predictions: Calibrated probabilities of the sealed images, as a single fold.
        uncalibrated: The same before calibration.
        decisions: At the fixed threshold.
        values: Metrics by name, as of a trial; `brier_uncalibrated` and `ece_uncalibrated` beside them.
        intervals: 95 % over cases, of those metrics that have one.
    """

    predictions: Predictions
    uncalibrated: Predictions
    decisions: HardLabels
    values: dict[str, float]
    intervals: dict[str, Interval]

    def flat(self, prefix: str = TEST) -> dict[str, float]:
        """Everything under one name each: `test/auc`, `test/auc_low`, `test/auc_high`, ..."""
        ends = {f"{name}_{end}": getattr(pair, end) for name, pair in self.intervals.items() for end in ("low", "high")}
        return {f"{prefix}{name}": float(value) for name, value in (self.values | ends).items()}


def evaluate_test(
    predictions: Predictions,
    uncalibrated: npt.NDArray[Any],
    threshold: float,
    n_draws: int = N_DRAWS,
    seed: int = 0,
    logged: Sequence[str] = (),
) -> TestResult:
    """Compute the test's metrics and their intervals.

    Args:
        predictions: Calibrated probabilities of the sealed images; one repeat, one fold.
        uncalibrated: Before calibration. Shape (n,).
        threshold: A calibrated probability from here on is called malignant.
        n_draws: Bootstrap draws of groups within strata.
        seed: Of the draws.
        logged: Names of metrics of other packages.

    Source:
        Intervals: percentile bootstrap over groups, DESIGN "Resampling".
    """
    before = replace(predictions, probability=uncalibrated[None])
    predicted = (predictions.probability >= threshold).astype(np.int8)
    decisions = HardLabels(predicted, np.full((1, 1), threshold))
    values = metrics.trial_metrics(predictions, decisions)
    del values["auc_fold_std"]  # of one fold
    for name in ("brier", "ece"):
        values[f"{name}_uncalibrated"] = metrics.trial_metrics(before, decisions)[name]
    values |= logged_metrics(predictions, logged)
    draws = group_draws(predictions.group, predictions.stratum, n_draws, seed)
    samples = {
        "auc": bootstrap_scores(predictions, draws),
        "average_precision": _average_precisions(predictions, draws),
        **_thresholded(predictions, predicted[0], draws),
        **_calibration(predictions, draws, ""),
        **_calibration(before, draws, "_uncalibrated"),
        **metric_draws(predictions, logged, draws),
    }
    return TestResult(
        predictions, before, decisions, values, {name: interval(drawn) for name, drawn in samples.items()}
    )


def _group_sums(predictions: Predictions, values: FloatArray) -> FloatArray:
    """Case-weighted sums of values over the images of each group. `values`: (n,) or (n, k); shape (n_groups[, k])."""
    _, number = np.unique(predictions.group, return_inverse=True)
    weighted = (values.T * predictions.weight[0]).T
    sums = np.zeros((number.max() + 1, *weighted.shape[1:]))
    np.add.at(sums, number, weighted)
    return sums


def _average_precisions(predictions: Predictions, draws: IntArray) -> FloatArray:
    """Average precision under every draw. Shape (n_draws,)."""
    _, number = np.unique(predictions.group, return_inverse=True)
    score = partial(metrics.weighted_average_precision, predictions.label, predictions.probability[0])
    return np.array([float(score(predictions.weight[0] * counts[number])) for counts in draws])


def _thresholded(predictions: Predictions, predicted: npt.NDArray[np.int8], draws: IntArray) -> dict[str, FloatArray]:
    label = predictions.label.astype(np.float64)
    drawn: Callable[[npt.NDArray[Any]], FloatArray] = lambda values: draws @ _group_sums(predictions, values)  # noqa: E731
    hits, positives = drawn(label * predicted), drawn(label)
    spared, negatives = drawn((1 - label) * (1 - predicted)), drawn(1 - label)
    right = (predicted == predictions.label).astype(np.float64)
    with np.errstate(invalid="ignore"):
        sensitivity, specificity = hits / positives, spared / negatives
        return {
            "sensitivity": sensitivity,
            "specificity": specificity,
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "f1": 2 * hits / (hits + positives + negatives - spared),
            "recognition_rate": drawn(right) / draws.sum(axis=1),  # weights sum to 1 within a group
        }


def _calibration(predictions: Predictions, draws: IntArray, suffix: str) -> dict[str, FloatArray]:
    """Brier score and expected calibration error under every draw, bins as in `metrics.calibration_bins`."""
    probability = predictions.probability[0].astype(np.float64)
    n_bins = metrics.N_CALIBRATION_BINS
    place = np.minimum((probability * n_bins).astype(np.int64), n_bins - 1)
    gap = np.zeros((len(probability), n_bins))
    gap[np.arange(len(probability)), place] = probability - predictions.label
    total = draws.sum(axis=1)
    error = draws @ _group_sums(predictions, (probability - predictions.label) ** 2)
    return {
        f"brier{suffix}": error / total,
        f"ece{suffix}": np.abs(draws @ _group_sums(predictions, gap)).sum(axis=1) / total,
    }
