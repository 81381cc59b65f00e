"""Metrics of other packages, which are logged for every trial and for the test in addition to the built-in metrics."""

from __future__ import annotations

from collections.abc import Sequence

from bhsearch.evaluation.bootstrap import Interval, bootstrap_metric, interval
from bhsearch.evaluation.metrics import AUC_FOLD_STD, METRICS, Metric
from bhsearch.evaluation.predictions import IntArray, Predictions
from bhsearch.evaluation.thresholds import HardLabels, cross_fitted_labels
from bhsearch.plugins import Registry
from bhsearch.tasks.base import Task

# Other packages provide a `Metric` through an entry point in this group with the name of the metric. The function of
# the metric is used for trials, the test and bootstrap draws.
EXTRA_METRICS: Registry[Metric] = Registry(
    "bhsearch.metrics", "--metrics", reserved=(*METRICS, AUC_FOLD_STD, "auc_low", "auc_high", "seconds")
)


def extra_values(
    predictions: Predictions, names: Sequence[str], task: Task, decisions: HardLabels | None = None
) -> dict[str, float]:
    """Compute the metrics of other packages.

    Args:
        predictions: Out-of-fold predictions, or test predictions as a single fold.
        names: Names of the metrics.
        task: Task that names the threshold rule.
        decisions: Predicted labels; None for labels at cross-fitted thresholds.
    """
    if not names:
        return {}
    labels = cross_fitted_labels(predictions, task) if decisions is None else decisions
    return {name: EXTRA_METRICS.get(name).value(predictions, labels) for name in names}


def extra_intervals(
    predictions: Predictions, names: Sequence[str], decisions: HardLabels, draws: IntArray
) -> dict[str, Interval]:
    """Compute 95 % bootstrap intervals of the metrics of other packages; see `bootstrap_metric`."""
    metrics = {name: EXTRA_METRICS.get(name) for name in names}
    return {name: interval(bootstrap_metric(metric, predictions, decisions, draws)) for name, metric in metrics.items()}
