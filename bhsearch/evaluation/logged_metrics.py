"""Metrics of other packages: logged for every trial and for the test, beside the built-in ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.metrics import fold_scores
from bhsearch.evaluation.predictions import Predictions
from bhsearch.runtime.plugins import Registry

FloatArray = npt.NDArray[np.float64]


class LoggedMetric(Protocol):
    """A weighted metric. Another package offers one by an entry point in `bhsearch.metrics`.

    The same function serves trials (mean over folds), the test, and the bootstrap, where a weight is multiplied by the
    number of times that the image's group was drawn.
    """

    def __call__(self, label: npt.NDArray[np.int8], probability: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
        """Compute the metric.

        Args:
            label: 0 or 1. Shape (n,).
            probability: P(malignant). Shape (n,).
            weight: Weight per image, 0 or more. Shape (n,).

        Returns:
            A scalar array; nan where the metric is not defined, such as without images of one class.
        """


METRICS: Registry[LoggedMetric] = Registry(
    "bhsearch.metrics",
    "--metrics",
    {},
    reserved=(
        "auc", "auc_low", "auc_high", "auc_fold_std", "average_precision", "balanced_accuracy", "sensitivity",
        "specificity", "f1", "brier", "ece", "recognition_rate", "seconds",
    ),
)  # fmt: skip


def logged_metrics(predictions: Predictions, names: Sequence[str]) -> dict[str, float]:
    """Return the mean over folds of each metric, by name."""
    return {name: float(fold_scores(predictions, METRICS.get(name)).mean()) for name in names}


def metric_draws(predictions: Predictions, names: Sequence[str], draws: npt.NDArray[np.int64]) -> dict[str, FloatArray]:
    """Return each metric under bootstrap draws of groups.

    Args:
        predictions: One repeat and one fold, such as those of the test.
        names: Names of the metrics.
        draws: Counts from `group_draws`. Shape (n_draws, n_groups).

    Returns:
        Arrays of shape (n_draws,), by name.
    """
    _, number = np.unique(predictions.group, return_inverse=True)
    label, probability, weight = predictions.label, predictions.probability[0], predictions.weight[0]
    found = {}
    for name in names:
        metric = METRICS.get(name)
        found[name] = np.array([float(metric(label, probability, weight * counts[number])) for counts in draws])
    return found
