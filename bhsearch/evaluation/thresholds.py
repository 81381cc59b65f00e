"""Cross-fitted thresholds: the threshold of a fold is chosen on the other folds of the repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bhsearch.text import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bhsearch.evaluation.predictions import FloatArray, Predictions
    from bhsearch.tasks.base import Task

# Tolerance below which balanced accuracies are equal. The last digits of sums of weights such as 1/7 depend on the
# order of rows, but the selected threshold must not.
_SAME = 1e-9


@dataclass(frozen=True, eq=False)
class HardLabels:
    """Predicted labels of images, with the thresholds that give them.

    Attributes:
        predicted: 0 benign, 1 malignant. Shape (n_repeats, n_images).
        threshold: Probability from which an image of the fold is classified as malignant; nan for folds without images.
            Shape (n_repeats, n_folds).
    """

    predicted: npt.NDArray[np.int8]
    threshold: FloatArray

    @classmethod
    def at_threshold(cls, predictions: Predictions, threshold: float) -> HardLabels:
        """Classify the images of a single fold with a threshold that was fixed beforehand.

        Args:
            predictions: Predictions with one repeat and one fold.
            threshold: Probability from which an image is classified as malignant.
        """
        return cls((predictions.probability >= threshold).astype(np.int8), np.full((1, 1), threshold))

    @classmethod
    def at_thresholds(cls, predictions: Predictions, threshold: FloatArray) -> HardLabels:
        """Classify the images of every fold with the threshold of the fold.

        Args:
            predictions: Out-of-fold predictions.
            threshold: Probability from which an image of the fold is classified as malignant. Shape (n_repeats,
                n_folds).
        """
        # Compared in the precision of the probabilities, as a deployed model does.
        cut = threshold.astype(predictions.probability.dtype)
        of_image = np.take_along_axis(cut, predictions.fold.astype(np.intp), axis=1)
        return cls((predictions.probability >= of_image).astype(np.int8), threshold)

    @classmethod
    def placeholder(cls, predictions: Predictions) -> HardLabels:
        """Return predicted labels without meaning, for metrics that are computed from probabilities only."""
        return cls(np.zeros(predictions.fold.shape, np.int8), np.zeros((0, 0)))


def best_threshold(label: npt.NDArray[np.int8], probability: npt.NDArray[Any], weight: FloatArray) -> float:
    """Return the threshold with the highest weighted balanced accuracy.

    Candidates are the midpoints between neighbouring probabilities, and the lowest probability, which classifies all
    images as malignant. Among equally good thresholds, the one nearest to 0.5 is selected, or the lower one of two at
    the same distance.

    Args:
        label: 0 or 1. Shape (n_images,).
        probability: P(malignant). Shape (n_images,).
        weight: Weight per image. Shape (n_images,).

    Returns:
        Probability from which an image is classified as malignant; 0.5 if a class has zero weight.
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
    # The midpoint of two adjacent floats rounds to one of them. If it rounds to the lower one, use the upper one, since
    # a threshold at the lower value would not separate the two.
    candidates = np.concatenate([values[:1], np.where(middle > values[:-1], middle, values[1:])])
    best = candidates[balanced >= balanced.max() - _SAME]
    distance = np.abs(best - 0.5)
    return float(best[distance <= distance.min() + _SAME][0])


# Functions (label, probability, weight) -> threshold by name; `Task.threshold_rule` names the rule of a task.
RULES: dict[str, Callable[[npt.NDArray[np.int8], npt.NDArray[Any], FloatArray], float]] = {
    "balanced_accuracy": best_threshold
}


FIXED_RATE = 0.95


def threshold_at_sensitivity(label: npt.NDArray[np.int8], probability: npt.NDArray[Any], weight: FloatArray) -> float:
    """Return the highest threshold with a weighted sensitivity of at least `FIXED_RATE`.

    Args:
        label: 0 or 1. Shape (n_images,).
        probability: P(malignant). Shape (n_images,).
        weight: Weight per image. Shape (n_images,).

    Returns:
        One of the probabilities of malignant images; 0 if malignant images have zero weight.
    """
    order = np.argsort(-np.asarray(probability, np.float64), kind="stable")
    reached = np.cumsum((weight * label)[order])
    if not reached[-1] > 0:
        return 0.0
    return float(probability[order][np.argmax(reached >= (FIXED_RATE - _SAME) * reached[-1])])


def threshold_at_specificity(label: npt.NDArray[np.int8], probability: npt.NDArray[Any], weight: FloatArray) -> float:
    """Return the lowest threshold with a weighted specificity of at least `FIXED_RATE`.

    Args:
        label: 0 or 1. Shape (n_images,).
        probability: P(malignant). Shape (n_images,).
        weight: Weight per image. Shape (n_images,).

    Returns:
        The middle between the probability of a benign image and the next higher probability, so that this image is
        classified as benign; 0 if benign images have zero weight.
    """
    order = np.argsort(np.asarray(probability, np.float64), kind="stable")
    reached = np.cumsum((weight * (1 - label))[order])
    if not reached[-1] > 0:
        return 0.0
    ranked = probability[order].astype(np.float64)
    last = ranked[np.argmax(reached >= (FIXED_RATE - _SAME) * reached[-1])]
    above = ranked[ranked > last]
    if not len(above):  # float32, since the predictions of the test are compared with the threshold in float32
        return float(np.nextafter(np.float32(last), np.float32(2)))
    middle = (last + above[0]) / 2
    return float(middle if middle > last else above[0])


# Functions (label, probability, weight) -> threshold of the operating points at a fixed rate, by name.
FIXED_RATES = {"sensitivity_95": threshold_at_sensitivity, "specificity_95": threshold_at_specificity}
AT = "_at_"  # between a metric and an operating point in names such as `specificity_at_sensitivity_95`


def rate_title(name: str) -> str:
    """Return the title of an operating point of `FIXED_RATES`, such as `95 % sensitivity`."""
    return f"{FIXED_RATE:.0%} {name.split('_')[0]}".replace("%", " %")


def cross_fitted_labels(predictions: Predictions, task: Task) -> HardLabels:
    """Classify each image with the threshold that the rule of the task selects on the other folds of the repeat.

    Args:
        predictions: Out-of-fold predictions. With a single fold, the threshold is 0.5.
        task: Task that names the threshold rule.
    """
    rule = RULES[task.threshold_rule]
    threshold = np.full((predictions.n_repeats, predictions.n_folds), np.nan)
    for repeat, fold in np.ndindex(threshold.shape):
        others = predictions.fold[repeat] != fold
        if others.all():
            continue
        probability = predictions.probability[repeat]
        threshold[repeat, fold] = rule(
            predictions.label[others], probability[others], predictions.weight[repeat, others]
        )
    return HardLabels.at_thresholds(predictions, threshold)


def classification_text(predictions: Predictions, task: Task, note: str = "") -> str:
    """Return the precision, recall and F1 score of each class as text.

    The predicted labels are those of `cross_fitted_labels`. All cases have the same weight.

    Args:
        predictions: Out-of-fold predictions.
        task: Task that names the classes.
        note: Line above the table, such as "synthetic data (phantom)". An empty note is left out.

    Returns:
        The report, laid out like that of scikit-learn. "support" is the number of cases, averaged over
        repeats, not the number of images.
    """
    predicted, weight = cross_fitted_labels(predictions, task).predicted, predictions.weight / predictions.n_repeats
    lines = [
        *([note] if note else []),
        f"Out-of-fold decisions on {plural(len(predictions), 'image')} of "
        f"{plural(len(np.unique(predictions.group)), 'case')}.",
        "Every case counts the same: support is in cases. Thresholds: each fold's from the other folds.",
        "",
        *_report_lines(np.broadcast_to(predictions.label, predicted.shape), predicted, weight, task.class_names),
        "",
    ]
    return "\n".join(lines)


def _report_lines(
    label: npt.NDArray[np.int8], predicted: npt.NDArray[np.int8], weight: FloatArray, names: Sequence[str]
) -> list[str]:
    """Return the table of scikit-learn's classification report. The import of scikit-learn takes longer than a trial.

    Args:
        label: Number of the class. Shape (n_repeats, n_images).
        predicted: Number of the predicted class. Shape (n_repeats, n_images).
        weight: Weight per image. Shape (n_repeats, n_images).
        names: Names of the classes.
    """
    rates = np.zeros((len(names), 3))  # precision, recall, F1; 0 where undefined
    support = np.zeros(len(names))
    for number in range(len(names)):
        actual, called = label == number, predicted == number
        hits, n_called, support[number] = (weight[mask].sum() for mask in (actual & called, called, actual))
        for place, base in enumerate((n_called, support[number], (n_called + support[number]) / 2)):
            rates[number, place] = hits / base if base > 0 else 0.0
    total, width = support.sum(), max(len("weighted avg"), *map(len, names))

    def line(name: str, values: Iterable[object], count: float) -> str:
        return f"{name:>{width}}  " + " ".join(f"{value:>9}" for value in [*values, f"{count:.1f}"])

    def rounded(values: FloatArray) -> list[str]:
        return [f"{value:.3f}" for value in values]

    accuracy = weight[label == predicted].sum() / total
    return [
        f"{'':>{width}}  " + " ".join(f"{name:>9}" for name in ("precision", "recall", "f1-score", "support")),
        "",
        *(line(name, rounded(rates[number]), support[number]) for number, name in enumerate(names)),
        "",
        line("accuracy", ["", "", f"{accuracy:.3f}"], total),
        line("macro avg", rounded(rates.mean(axis=0)), total),
        line("weighted avg", rounded(support @ rates / total), total),
    ]
