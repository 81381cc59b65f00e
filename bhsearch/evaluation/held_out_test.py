"""Evaluation of one model on the held-out test set: metrics at a fixed threshold, with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.bootstrap import Interval, bootstrap_metric, group_draws, interval
from bhsearch.evaluation.metrics import AUC_FOLD_STD, METRICS, trial_metrics
from bhsearch.evaluation.plugin_metrics import EXTRA_METRICS, extra_intervals, extra_values
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.thresholds import HardLabels

N_DRAWS = 1000
TEST = "test/"  # prefix of the metrics of the sealed test
UNCALIBRATED = "_uncalibrated"  # suffix of metrics of uncalibrated probabilities
CALIBRATED = ("brier", "ece")  # metrics that are computed both before and after calibration


def metric_title(name: str) -> str:
    """Return the full name of a test metric, such as `Brier score before calibration`."""
    plain = name.removesuffix(UNCALIBRATED)
    title = (METRICS[plain] if plain in METRICS else EXTRA_METRICS.get(plain)).title
    return f"{title} before calibration" if name.endswith(UNCALIBRATED) else title


@dataclass(frozen=True, eq=False)
class TestResult:
    """Result of the evaluation on the sealed test set.

    Attributes:
        predictions: Predictions of the images of the held-out test set with calibrated probabilities, as a single fold.
        uncalibrated: Predictions of the same images with uncalibrated probabilities.
        decisions: Predicted labels at the predefined threshold.
        values: Metrics by name: the metrics of `trial_metrics`, those in `CALIBRATED` also before calibration, and
            metrics of other packages.
        intervals: 95 % confidence intervals, from a bootstrap over cases, by name of the metric, except for subtypes
            and magnifications.
    """

    __test__ = False  # no test class for pytest to collect

    predictions: Predictions
    uncalibrated: Predictions
    decisions: HardLabels
    values: dict[str, float]
    intervals: dict[str, Interval]

    def flat(self, prefix: str = TEST) -> dict[str, float]:
        """Return values and interval ends in one dictionary: `test/auc`, `test/auc_low`, `test/auc_high`, ..."""
        ends = {f"{name}_{end}": getattr(pair, end) for name, pair in self.intervals.items() for end in ("low", "high")}
        return {f"{prefix}{name}": float(value) for name, value in (self.values | ends).items()}


def evaluate_test(
    predictions: Predictions,
    uncalibrated: npt.NDArray[Any],
    threshold: float,
    n_draws: int = N_DRAWS,
    seed: int = 0,
    extra: Sequence[str] = (),
) -> TestResult:
    """Compute the metrics of a model on the sealed test set, and their intervals.

    Args:
        predictions: Predictions of the images of the held-out test set with calibrated probabilities, with one repeat
            and one fold.
        uncalibrated: Uncalibrated probabilities. Shape (n,).
        threshold: Calibrated probability from which an image is classified as malignant.
        n_draws: Number of bootstrap samples of groups within strata.
        seed: Random seed of the bootstrap.
        extra: Names of metrics of other packages.

    Source:
        Intervals: percentile bootstrap over groups, see `bootstrap.group_draws`.
    """
    before = replace(predictions, probability=uncalibrated[None])
    decisions = HardLabels((predictions.probability >= threshold).astype(np.int8), np.full((1, 1), threshold))
    values = trial_metrics(predictions, decisions)
    del values[AUC_FOLD_STD]  # undefined for a single fold
    draws = group_draws(predictions.group, predictions.stratum, n_draws, seed)
    intervals = {
        name: interval(bootstrap_metric(metric, predictions, decisions, draws)) for name, metric in METRICS.items()
    }
    for name in CALIBRATED:
        values[f"{name}{UNCALIBRATED}"] = METRICS[name].value(before, decisions)
        intervals[f"{name}{UNCALIBRATED}"] = interval(bootstrap_metric(METRICS[name], before, decisions, draws))
    values |= extra_values(predictions, extra, decisions)
    intervals |= extra_intervals(predictions, extra, decisions, draws)
    return TestResult(predictions, before, decisions, values, intervals)
