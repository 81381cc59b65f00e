"""Cross-fitted thresholds: an image is never classified with a threshold that was chosen on its own fold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bhsearch.tasks.binary import BINARY

if TYPE_CHECKING:
    from collections.abc import Callable

    from bhsearch.evaluation.predictions import FloatArray, Predictions
    from bhsearch.tasks.base import Task

# Thresholds whose balanced accuracies differ by less than this are equally good: sums of weights such as 1/7 depend on
# the order of rows in their last digits, and the choice must not depend on that order.
_SAME = 1e-9


@dataclass(frozen=True, eq=False)
class HardLabels:
    """Hard labels of out-of-fold predictions.

    Attributes:
        predicted: 0 benign, 1 malignant. Shape (R, n).
        threshold: An image of the fold is called malignant if its probability is at least this; nan for a fold
            without images. Shape (R, K).
    """

    predicted: npt.NDArray[np.int8]
    threshold: FloatArray


def best_threshold(label: npt.NDArray[np.int8], probability: npt.NDArray[Any], weight: FloatArray) -> float:
    """Return the threshold with the highest weighted balanced accuracy.

    Candidates are the midpoints between neighbouring probabilities, and the lowest probability itself (all malignant).
    Of equally good thresholds the one nearest to 0.5 is taken, and of two equally near the lower.

    Args:
        label: 0 or 1. Shape (n,).
        probability: P(malignant). Shape (n,).
        weight: Weight per image. Shape (n,).

    Returns:
        The threshold; an image is malignant if its probability is not below it. 0.5 if a class has no weight.
    """
    order = np.argsort(probability)
    ranked = probability[order].astype(np.float64)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ranked)) + 1])
    positive, negative = (weight * label)[order], (weight * (1 - label))[order]
    if positive.sum() == 0 or negative.sum() == 0:
        return 0.5
    fn_rate = (np.cumsum(positive) - positive)[starts] / positive.sum()
    tn_rate = (np.cumsum(negative) - negative)[starts] / negative.sum()
    balanced = (1 - fn_rate + tn_rate) / 2
    values = ranked[starts]
    middle = (values[1:] + values[:-1]) / 2
    # The midpoint of two neighbouring floats is one of them; a threshold at the lower one would include both.
    candidates = np.concatenate([values[:1], np.where(middle > values[:-1], middle, values[1:])])
    best = candidates[balanced >= balanced.max() - _SAME]
    distance = np.abs(best - 0.5)
    return float(best[distance <= distance.min() + _SAME][0])


# Threshold rules by the name that a task has for its own: (label, probability, weight) -> threshold.
RULES: dict[str, Callable[[npt.NDArray[np.int8], npt.NDArray[Any], FloatArray], float]] = {
    "balanced_accuracy": best_threshold
}


def cross_fitted_labels(predictions: Predictions, task: Task = BINARY) -> HardLabels:
    """Classify each image with the threshold that is best on the other folds of its repeat.

    Args:
        predictions: Out-of-fold predictions. With a single fold the threshold is 0.5.
        task: Names the threshold rule.
    """
    rule = RULES[task.threshold_rule]
    predicted = np.zeros(predictions.fold.shape, dtype=np.int8)
    threshold = np.full((predictions.n_repeats, predictions.n_folds), np.nan)
    for repeat, fold in np.ndindex(threshold.shape):
        inside = predictions.fold[repeat] == fold
        if not inside.any():
            continue
        others, probability = ~inside, predictions.probability[repeat]
        value = rule(predictions.label[others], probability[others], predictions.weight[repeat, others])
        threshold[repeat, fold] = value
        predicted[repeat, inside] = probability[inside] >= value
    return HardLabels(predicted, threshold)


def classification_text(predictions: Predictions, note: str = "", task: Task = BINARY) -> str:
    """Return scikit-learn's classification report of the cross-fitted labels, every case counting the same.

    Args:
        predictions: Out-of-fold predictions.
        note: Line above the table, such as "synthetic data (phantom)". An empty note is left out.
        task: Names the classes.

    Returns:
        The report as text; "support" is in cases (mean over repeats), not in images.
    """
    from sklearn.metrics import classification_report

    repeats = predictions.n_repeats
    table = classification_report(
        np.tile(predictions.label, repeats),
        cross_fitted_labels(predictions, task).predicted.ravel(),
        labels=[0, 1],
        target_names=list(task.class_names),
        sample_weight=predictions.weight.ravel() / repeats,
        digits=3,
        zero_division=0.0,
    )
    lines = [
        *([note] if note else []),
        f"Out-of-fold decisions on {len(predictions)} images of {len(np.unique(predictions.group))} cases.",
        "Every case counts the same: support is in cases. Thresholds: each fold's from the other folds.",
        "",
        # Sums of weights such as 1/7 print with all their digits; one is enough for a number of cases.
        re.sub(r" (\d+\.\d{3,})$", lambda found: f" {float(found[1]):>9.1f}", table, flags=re.MULTILINE),
    ]
    return "\n".join(lines)
