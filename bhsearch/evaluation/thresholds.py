"""Cross-fitted thresholds: the decision about an image never rests on a threshold that saw its fold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.dataset import CLASS_NAMES

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import FloatArray, Predictions

# Two cuts whose balanced accuracies differ by less than this are the same cut: sums of weights such as 1/7 come out
# differently in the last digits when rows are in another order, and the choice must not depend on that.
_SAME = 1e-9


@dataclass(frozen=True, eq=False)
class HardLabels:
    """Hard labels of out-of-fold predictions.

    Attributes:
        predicted: 0 benign, 1 malignant. Shape (R, n).
        threshold: An image of that fold is called malignant from this probability on; nan for a fold without
            images. Shape (R, K).
    """

    predicted: npt.NDArray[np.int8]
    threshold: FloatArray


def best_threshold(label: npt.NDArray[np.int8], probability: npt.NDArray[Any], weight: FloatArray) -> float:
    """The cut with the highest weighted balanced accuracy.

    Candidates are the midpoints between neighbouring probabilities, and the lowest probability itself (all malignant).
    Of cuts that are equally good the one nearest to 0.5 is taken, and of two equally near the lower.

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
    missed = (np.cumsum(positive) - positive)[starts] / positive.sum()
    spared = (np.cumsum(negative) - negative)[starts] / negative.sum()
    balanced = (1 - missed + spared) / 2
    values = ranked[starts]
    middle = (values[1:] + values[:-1]) / 2
    # The midpoint of two neighbouring floats is one of them; a cut at the lower one would take both sides.
    cuts = np.concatenate([values[:1], np.where(middle > values[:-1], middle, values[1:])])
    best = cuts[balanced >= balanced.max() - _SAME]
    distance = np.abs(best - 0.5)
    return float(best[distance <= distance.min() + _SAME][0])


def cross_fitted_labels(predictions: Predictions) -> HardLabels:
    """Decide each image with the threshold that the other folds of its repeat choose.

    With a single fold there are no others, and the threshold is 0.5.
    """
    predicted = np.zeros(predictions.fold.shape, dtype=np.int8)
    threshold = np.full((predictions.n_repeats, predictions.n_folds), np.nan)
    for repeat, fold in np.ndindex(threshold.shape):
        inside = predictions.fold[repeat] == fold
        if not inside.any():
            continue
        rows, probability = ~inside, predictions.probability[repeat]
        cut = best_threshold(predictions.label[rows], probability[rows], predictions.weight[repeat, rows])
        threshold[repeat, fold] = cut
        predicted[repeat, inside] = probability[inside] >= cut
    return HardLabels(predicted, threshold)


def classification_text(predictions: Predictions, note: str = "") -> str:
    """scikit-learn's classification report of the cross-fitted decisions, every case counting the same.

    Args:
        predictions: Out-of-fold predictions.
        note: A line put above the table, such as "synthetic data (phantom)". Empty for none.

    Returns:
        The report as text; "support" is in cases (mean over repeats), not in images.
    """
    from sklearn.metrics import classification_report

    repeats = predictions.n_repeats
    table = classification_report(
        np.tile(predictions.label, repeats),
        cross_fitted_labels(predictions).predicted.ravel(),
        labels=[0, 1],
        target_names=list(CLASS_NAMES),
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
