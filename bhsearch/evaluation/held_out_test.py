"""Evaluation of one model on the held-out test set: metrics at a fixed threshold, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt

from bhsearch.evaluation.bootstrap import Interval, bootstrap_metric, group_draws, interval
from bhsearch.evaluation.metrics import AUC_FOLD_STD, METRICS, metrics_of, trial_metrics
from bhsearch.evaluation.plugin_metrics import EXTRA_METRICS, extra_intervals, extra_values
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.promotion import few_cases_note
from bhsearch.evaluation.reliable_intervals import reliable_intervals, why_no_interval
from bhsearch.evaluation.supplementary.supplements import CALIBRATION_SLOPE_NOTE, TITLES, supplements
from bhsearch.evaluation.thresholds import AT, FIXED_RATES, HardLabels, rate_title
from bhsearch.tasks.base import Task

N_DRAWS = 1000
TEST = "test/"  # prefix of the metrics of the sealed test
UNCALIBRATED = "_uncalibrated"  # suffix of metrics of uncalibrated probabilities
CALIBRATED = ("brier", "ece")  # metrics that are computed both before and after calibration

ONE_CLASS = {"sensitivity": 1, "specificity": 0}  # label of the images that a metric is computed from
AT_FIXED_RATES = tuple(f"{name}{AT}{rate}" for rate in FIXED_RATES for name in ONE_CLASS)


def metric_title(name: str) -> str:
    """Return the full name of a test metric, such as `Brier score before calibration`."""
    if name in TITLES:
        return TITLES[name]
    base, _, rate = name.partition(AT)
    if rate in FIXED_RATES:
        return f"{METRICS[base].title} at the threshold for {rate_title(rate)}"
    plain = name.removesuffix(UNCALIBRATED)
    title = (METRICS[plain] if plain in METRICS else EXTRA_METRICS.get(plain)).title
    return f"{title} before calibration" if name.endswith(UNCALIBRATED) else title


def class_of(name: str) -> int | None:
    """Return the label of the images that a test metric is computed from; None for metrics of both classes."""
    return ONE_CLASS.get(name.partition(AT)[0])


@dataclass(frozen=True, eq=False)
class TestResult:
    """Result of the evaluation on the sealed test set.

    Attributes:
        task: Task of the study.
        predictions: Predictions of the images of the held-out test set with calibrated probabilities, as a single fold.
        uncalibrated: Predictions of the same images with uncalibrated probabilities.
        decisions: Predicted labels at the predefined threshold.
        values: Metrics by name: the metrics of `trial_metrics`, those in `CALIBRATED` also before calibration, metrics
            of other packages, and the statistics of `supplements`.
        intervals: 95 % confidence intervals, from a bootstrap over cases, by name of the metric, except for subtypes
            and magnifications. Both ends are nan where `reliable_intervals` finds none.
        not_applicable: Reasons by name, for statistics of `supplements` that these predictions do not have.
    """

    __test__ = False  # no test class for pytest to collect

    task: Task
    predictions: Predictions
    uncalibrated: Predictions
    decisions: HardLabels
    values: dict[str, float]
    intervals: dict[str, Interval]
    not_applicable: dict[str, str] = field(default_factory=dict)

    @property
    def few_cases(self) -> str:
        """Note on a test with fewer than `FEWEST_GROUPS` groups of a class; otherwise empty. See `few_cases_note`."""
        _, n_benign, n_malignant = self.predictions.count_groups()
        return few_cases_note(n_benign, n_malignant)

    @property
    def remarks(self) -> list[str]:
        """Sentences that explain the supplementary statistics, and why those without a value are not applicable."""
        left_out = [f"Not applicable: {TITLES[name]}, since {reason}." for name, reason in self.not_applicable.items()]
        return [CALIBRATION_SLOPE_NOTE, *left_out]

    def why_no_interval(self, name: str) -> str:
        """Return the reason why a metric has no interval, as text; of no meaning for metrics that have one."""
        return why_no_interval(name, self.predictions)

    def flat(self, prefix: str = TEST) -> dict[str, float]:
        """Return values and interval ends in one dictionary: `test/auc`, `test/auc_low`, `test/auc_high`, ..."""
        ends = {f"{name}_{end}": getattr(pair, end) for name, pair in self.intervals.items() for end in ("low", "high")}
        return {f"{prefix}{name}": float(value) for name, value in (self.values | ends).items()}


def evaluate_test(
    predictions: Predictions,
    uncalibrated: npt.NDArray[Any],
    threshold: float,
    task: Task,
    n_draws: int = N_DRAWS,
    seed: int = 0,
    extra: Sequence[str] = (),
    fixed_rates: Mapping[str, float] | None = None,
) -> TestResult:
    """Compute the metrics of a model on the sealed test set, and their intervals.

    Args:
        predictions: Predictions of the images of the held-out test set with calibrated probabilities, with one repeat
            and one fold.
        uncalibrated: Uncalibrated probabilities. Shape (n_images,).
        threshold: Calibrated probability from which an image is classified as malignant.
        task: Task that names the metrics.
        n_draws: Number of bootstrap samples of groups within strata.
        seed: Random seed of the bootstrap.
        extra: Names of metrics of other packages.
        fixed_rates: Thresholds of `OperatingPoint.fixed_rates`; sensitivity and specificity are reported at each.

    Source:
        Intervals: percentile bootstrap over groups, see `bootstrap.group_draws`.
    """
    before = replace(predictions, probability=uncalibrated[None])
    decisions = HardLabels.at_threshold(predictions, threshold)
    values = trial_metrics(predictions, task, decisions)
    del values[AUC_FOLD_STD]  # undefined for a single fold
    if not predictions.label.any():
        values["f1"] = math.nan  # it is 0 for any prediction, and an external cohort may have a single class
    draws = group_draws(predictions.group, predictions.stratum, n_draws, seed)
    intervals = {
        name: interval(bootstrap_metric(metric, predictions, decisions, draws))
        for name, metric in metrics_of(task).items()
    }
    for name in CALIBRATED:
        values[f"{name}{UNCALIBRATED}"] = METRICS[name].value(before, decisions)
        intervals[f"{name}{UNCALIBRATED}"] = interval(bootstrap_metric(METRICS[name], before, decisions, draws))
    values |= extra_values(predictions, extra, task, decisions)
    intervals |= extra_intervals(predictions, extra, decisions, draws)
    for rate, value in (fixed_rates or {}).items():
        labels = HardLabels.at_threshold(predictions, value)
        for name in ONE_CLASS:
            values[f"{name}{AT}{rate}"] = METRICS[name].value(predictions, labels)
            samples = bootstrap_metric(METRICS[name], predictions, labels, draws)
            intervals[f"{name}{AT}{rate}"] = interval(samples)
    more = supplements(predictions, draws)
    values |= more.values
    intervals = reliable_intervals(values, intervals | more.intervals, predictions)
    return TestResult(task, predictions, before, decisions, values, intervals, more.not_applicable)
