"""Case-weighted metrics: one weighted function each, which serves trials, the sealed test and bootstrap draws."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.predictions import FloatArray, IntArray, LabelArray, Predictions
from bhsearch.evaluation.thresholds import HardLabels, cross_fitted_labels
from bhsearch.tasks.base import Task
from bhsearch.tasks.binary import BINARY

N_CALIBRATION_BINS = 10
AUC = "auc"
AUC_FOLD_STD = "auc_fold_std"
# Prefixes of metrics by subset; MLflow makes a section of each.
MAGNIFICATION, RECALL = "magnification/", "recall/"

# (label, prediction, weight) -> value. Label and prediction have shape (n,), the weight shape (..., n) and the value
# shape (...). The value is nan where it is undefined, such as the sensitivity where no malignant image has weight.
MetricFunction = Callable[[LabelArray, npt.NDArray[Any], FloatArray], FloatArray]


def weighted_auc(label: LabelArray, probability: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Return the area under the weighted ROC curve.

    This is the probability that a malignant image ranks above a benign one, a tie counting half.

    Args:
        label: 0 or 1. Shape (n,).
        probability: Anything that ranks the images; higher is more malignant. Shape (..., n).
        weight: Weight per image, 0 or more. Shape (..., n), broadcast against `probability`. Sorting is done once
            where only weights vary.

    Returns:
        One AUC per leading index; nan where a class has no weight or a probability is nan. Shape (...).

    Source:
        Weighted Mann-Whitney statistic; equals scikit-learn's `roc_auc_score(sample_weight=)`.
    """
    order = np.argsort(probability, axis=-1)
    ranked = np.take_along_axis(probability, order, axis=-1)
    positive = _ranked(weight * label, order)
    negative = _ranked(weight * (1.0 - label), order)
    through = np.cumsum(negative, axis=-1)
    n_positive, n_negative = positive.sum(axis=-1), through[..., -1].copy()
    below = through - negative
    rises = ranked[..., 1:] != ranked[..., :-1]
    if not rises.all():
        # Every image of a tie gets the weight below the tie and the weight up to its end. Both sums only grow, so
        # carrying a tie's first value forward is a running maximum, and its last value backward a running minimum.
        below[..., 1:] = np.where(rises, below[..., 1:], 0.0)
        below = np.maximum.accumulate(below, axis=-1)
        through[..., :-1] = np.where(rises, through[..., :-1], np.inf)
        through = np.minimum.accumulate(through[..., ::-1], axis=-1)[..., ::-1]
    wins = 0.5 * np.einsum("...i,...i->...", positive, below + through)
    with np.errstate(divide="ignore", invalid="ignore"):
        area = wins / (n_positive * n_negative)
    return np.asarray(np.where(np.isnan(ranked[..., -1]), np.nan, area))  # nan sorts last


def _ranked(values: FloatArray, order: npt.NDArray[np.intp]) -> FloatArray:
    """Reorder values of shape (..., n); either argument may be one row for all leading indices."""
    if order.ndim == 1:
        return np.asarray(values[..., order])
    if values.ndim == 1:
        return np.asarray(values[order])
    shape = np.broadcast_shapes(values.shape, order.shape)
    return np.take_along_axis(np.broadcast_to(values, shape), np.broadcast_to(order, shape), axis=-1)


def cumulative_counts(
    label: LabelArray, probability: npt.NDArray[Any], weight: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return true and false positives at every threshold, from the highest threshold down.

    Args:
        label: 0 or 1. Shape (n,).
        probability: P(malignant). Shape (n,).
        weight: Weight per image. Shape (..., n).

    Returns:
        Weight of the true positives and of the false positives, each of shape (..., 1 + n_distinct), and the
        thresholds, of shape (1 + n_distinct,). The first threshold is inf, at which both are 0.
    """
    ranked = np.asarray(probability, np.float64)
    order = np.argsort(-ranked)
    ends = np.append(np.flatnonzero(np.diff(ranked[order])), len(order) - 1)
    malignant, weight = label[order], weight[..., order]
    start = np.zeros((*weight.shape[:-1], 1))
    tp, fp = (
        np.concatenate([start, np.cumsum(weight * of_class, axis=-1)[..., ends]], axis=-1)
        for of_class in (malignant, 1 - malignant)
    )
    return tp, fp, np.concatenate([[np.inf], ranked[order][ends]])


def weighted_average_precision(label: LabelArray, probability: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Return the average precision: precision at each distinct probability, weighted by the recall gained there.

    Args:
        label: 0 or 1. Shape (n,).
        probability: Anything that ranks the images. Shape (n,).
        weight: Weight per image, 0 or more. Shape (..., n).

    Returns:
        Values in [0, 1]; nan where the malignant class has no weight. Shape (...).

    Source:
        scikit-learn's definition in `average_precision_score(sample_weight=)`, no interpolation.
    """
    tp, fp, _ = cumulative_counts(label, probability, weight)
    called = tp[..., 1:] + fp[..., 1:]
    precision = np.divide(tp[..., 1:], called, out=np.zeros_like(called), where=called > 0)
    return _ratio((np.diff(tp, axis=-1) * precision).sum(axis=-1), tp[..., -1])


def weighted_sensitivity(label: LabelArray, predicted: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Return the weighted share of malignant images that are called malignant; nan without malignant images."""
    return _ratio(weight @ (label * predicted), weight @ label)


def weighted_specificity(label: LabelArray, predicted: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Return the weighted share of benign images that are called benign; nan without benign images."""
    return _ratio(weight @ ((1 - label) * (1 - predicted)), weight @ (1 - label))


def weighted_balanced_accuracy(label: LabelArray, predicted: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Return the mean of sensitivity and specificity; nan where a class has no weight."""
    both = weighted_sensitivity(label, predicted, weight) + weighted_specificity(label, predicted, weight)
    return np.asarray(both / 2)


def weighted_f1(label: LabelArray, predicted: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Return the F1 score of the malignant class; 0 where nothing is malignant or called malignant."""
    tp = weight @ (label * predicted)
    fn, fp = weight @ (label * (1 - predicted)), weight @ ((1 - label) * predicted)
    return np.asarray(2 * tp / np.maximum(2 * tp + fn + fp, np.finfo(float).tiny))


def weighted_accuracy(label: LabelArray, predicted: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Return the weighted share of images with the right predicted label."""
    return _ratio(weight @ (predicted == label).astype(np.float64), weight.sum(axis=-1))


def weighted_brier(label: LabelArray, probability: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Return the Brier score: the weighted mean squared difference of probability and label."""
    return _ratio(weight @ (probability.astype(np.float64) - label) ** 2, weight.sum(axis=-1))


def weighted_ece(label: LabelArray, probability: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Return the expected calibration error over `N_CALIBRATION_BINS` bins of equal width."""
    exact = probability.astype(np.float64)
    gap = np.zeros((len(exact), N_CALIBRATION_BINS))
    gap[np.arange(len(exact)), calibration_bin(exact)] = exact - label
    return _ratio(np.abs(weight @ gap).sum(axis=-1), weight.sum(axis=-1))


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide; nan where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(np.asarray(denominator) == 0, np.nan, np.divide(numerator, denominator)))


@dataclass(frozen=True)
class Metric:
    """A metric and how it is computed from the predictions of a trial or a test.

    Attributes:
        name: Key in results and in MLflow, such as `auc`.
        title: Full name for tables and reports.
        function: The weighted function, see `MetricFunction`.
        needs_threshold: Whether `function` takes predicted labels instead of probabilities.
        per_fold: Whether the value is the mean over all validation folds. If not, the folds of a repeat are pooled,
            and the value is the mean over repeats.
        weight_by_case: Whether an image weighs 1/(images of its group) rather than 1/(images of its group in that
            validation fold). The two differ only where a group is in several folds.
        greater_is_better: Direction.
        low, high: Range of its values.
    """

    name: str
    title: str
    function: MetricFunction
    needs_threshold: bool = False
    per_fold: bool = False
    weight_by_case: bool = False
    greater_is_better: bool = True
    low: float = 0.0
    high: float = 1.0

    def parts(self, predictions: Predictions, decisions: HardLabels) -> Iterator[MetricInput]:
        """Yield the inputs of `function`: one per validation fold if `per_fold`, else one per repeat."""
        values = decisions.predicted if self.needs_threshold else predictions.probability
        if self.weight_by_case:
            _, number = np.unique(predictions.group, return_inverse=True)
            weight = np.broadcast_to(1.0 / np.bincount(number)[number], predictions.fold.shape)
        else:
            weight = predictions.weight
        all_rows = np.arange(len(predictions))
        pooled = ((repeat, 0, all_rows) for repeat in range(predictions.n_repeats))
        for repeat, _, rows in iter_folds(predictions) if self.per_fold else pooled:
            yield MetricInput(rows, predictions.label[rows], values[repeat, rows], weight[repeat, rows])

    def value(self, predictions: Predictions, decisions: HardLabels) -> float:
        """Return the value for the given predictions; nan if it is undefined in any part."""
        return float(np.mean([self.function(*part.arguments) for part in self.parts(predictions, decisions)]))


@dataclass(frozen=True, eq=False)
class MetricInput:
    """The images that one value of a metric is computed on.

    Attributes:
        rows: Row numbers in the predictions. Shape (m,).
        label: 0 or 1. Shape (m,).
        prediction: Probabilities or predicted decisions. Shape (m,).
        weight: Weight per image. Shape (m,).
    """

    rows: IntArray
    label: LabelArray
    prediction: npt.NDArray[Any]
    weight: FloatArray

    @property
    def arguments(self) -> tuple[LabelArray, npt.NDArray[Any], FloatArray]:
        """Label, prediction and weight, in the order in which a `MetricFunction` takes them."""
        return self.label, self.prediction, self.weight


# Every metric by name, in the order of tables: trials, sealed tests, reports, model cards and MLflow take it from here.
METRICS = {
    metric.name: metric
    for metric in (
        Metric(AUC, "area under the ROC curve (AUC)", weighted_auc, per_fold=True),
        Metric("balanced_accuracy", "balanced accuracy", weighted_balanced_accuracy, needs_threshold=True),
        Metric("sensitivity", "sensitivity", weighted_sensitivity, needs_threshold=True),
        Metric("specificity", "specificity", weighted_specificity, needs_threshold=True),
        Metric("f1", "F1 score", weighted_f1, needs_threshold=True),
        Metric("average_precision", "average precision", weighted_average_precision, per_fold=True),
        Metric(
            "recognition_rate",
            "case-level accuracy (recognition rate)",
            weighted_accuracy,
            needs_threshold=True,
            weight_by_case=True,
        ),
        Metric("brier", "Brier score", weighted_brier, greater_is_better=False),
        Metric("ece", "expected calibration error", weighted_ece, greater_is_better=False),
    )
}


def metrics_of(task: Task) -> dict[str, Metric]:
    """Return the metrics of a task by name, in the order of `METRICS`."""
    return {name: metric for name, metric in METRICS.items() if name in task.metrics}


def fold_scores(predictions: Predictions, metric: MetricFunction = weighted_auc) -> FloatArray:
    """Return a ranking metric of every validation fold.

    Args:
        predictions: Out-of-fold predictions.
        metric: Function of label, probability and weight.

    Returns:
        Shape (R, K); nan for a fold without one of the classes.
    """
    scores = np.full((predictions.n_repeats, predictions.n_folds), np.nan)
    for repeat, fold, rows in iter_folds(predictions):
        scores[repeat, fold] = metric(
            predictions.label[rows], predictions.probability[repeat, rows], predictions.weight[repeat, rows]
        )
    return scores


def iter_folds(predictions: Predictions) -> Iterator[tuple[int, int, npt.NDArray[np.intp]]]:
    """Yield repeat, fold and row numbers of every validation fold that has images."""
    for repeat in range(predictions.n_repeats):
        for fold in range(predictions.n_folds):
            rows = np.flatnonzero(predictions.fold[repeat] == fold)
            if len(rows):
                yield repeat, fold, rows


def score(predictions: Predictions) -> float:
    """Return the score of a trial: the mean over its R x K folds of the weighted AUC.

    It is nan if a fold lacks a class. A split guarantees both classes in every fold, so nan points to an error.
    """
    return float(fold_scores(predictions).mean())


def epoch_scores(
    probability: npt.NDArray[Any],
    label: LabelArray,
    fold: npt.NDArray[np.int8],
    weight: FloatArray,
) -> FloatArray:
    """Return the score after every epoch, for learning curves.

    Args:
        probability: Out-of-fold P(malignant) after each epoch. Shape (E, R, n).
        label: 0 or 1. Shape (n,).
        fold: Validation fold. Shape (R, n).
        weight: From `case_weights(group, fold)`. Shape (R, n).

    Returns:
        Mean over the R x K folds; the last one is the trial's score. nan where training diverged. Shape (E,).
    """
    columns = [
        weighted_auc(label[rows], probability[:, repeat, rows], weight[repeat, rows])
        for repeat in range(fold.shape[0])
        for rows in (np.flatnonzero(fold[repeat] == number) for number in range(int(fold.max()) + 1))
        if len(rows)
    ]
    return np.asarray(np.mean(columns, axis=0))


def calibration_bin(probability: npt.NDArray[Any]) -> IntArray:
    """Return the number of the calibration bin of each probability, 0 to `N_CALIBRATION_BINS - 1`. Any shape."""
    exact = np.asarray(probability, np.float64)
    return np.minimum((exact * N_CALIBRATION_BINS).astype(np.int64), N_CALIBRATION_BINS - 1)


def calibration_bins(predictions: Predictions) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return predicted and observed probability in bins of equal width, case-weighted.

    Returns:
        Per repeat and bin: share of the weight, mean probability, share of malignant; the last two are nan where a
        bin is empty. Each of shape (R, N_CALIBRATION_BINS).
    """
    probability = predictions.probability.astype(np.float64)
    bins = calibration_bin(probability) + np.arange(predictions.n_repeats)[:, None] * N_CALIBRATION_BINS

    def summed(values: FloatArray) -> FloatArray:
        size = predictions.n_repeats * N_CALIBRATION_BINS
        sums = np.bincount(bins.ravel(), values.ravel(), minlength=size)
        return np.asarray(sums, dtype=np.float64).reshape(-1, N_CALIBRATION_BINS)

    mass = summed(predictions.weight)
    with np.errstate(invalid="ignore"):
        mean = summed(predictions.weight * probability) / mass
        share = summed(predictions.weight * predictions.label) / mass
    return mass / mass.sum(axis=1, keepdims=True), mean, share


def trial_metrics(
    predictions: Predictions, decisions: HardLabels | None = None, task: Task = BINARY
) -> dict[str, float]:
    """Return every metric of a finished trial or a test, except intervals and durations.

    Args:
        predictions: Out-of-fold predictions, or those of the sealed test as a single fold.
        decisions: Predicted labels at a threshold that was fixed elsewhere; None for cross-fitted ones.
        task: Names the metrics.

    Returns:
        `auc`, `auc_fold_std` (standard deviation over the R x K folds, ddof 1), the other metrics of the task, then
        `magnification/<magnification>` (AUC) and `recall/<subtype>` (share of right images, every case counting the
        same) for the magnifications and subtypes that are known.
    """
    folds = fold_scores(predictions)
    decisions = cross_fitted_labels(predictions) if decisions is None else decisions
    return {
        AUC: float(folds.mean()),
        AUC_FOLD_STD: float(folds.std(ddof=1)) if folds.size > 1 else 0.0,
        **{name: metric.value(predictions, decisions) for name, metric in metrics_of(task).items() if name != AUC},
        **_magnification_metrics(predictions),
        **_subtype_metrics(predictions, decisions),
    }


def confusion(predictions: Predictions, predicted: npt.NDArray[np.int8], weight: FloatArray) -> FloatArray:
    """Return the weight of each true label (rows) and predicted label (columns) per repeat. Shape (R, 2, 2)."""
    cell = 2 * predictions.label + predicted
    counts = [np.bincount(row, values, minlength=4) for row, values in zip(cell, weight, strict=True)]
    return np.array(counts, dtype=np.float64).reshape(-1, 2, 2)


def _magnification_metrics(predictions: Predictions) -> dict[str, float]:
    """Return `magnification/<name>`: mean AUC over the folds where the magnification has both classes."""
    values = {}
    for name in sorted(set(predictions.magnification) - {""}):
        folds = fold_scores(predictions.select(predictions.magnification == name))
        if np.isfinite(folds).any():
            values[f"{MAGNIFICATION}{metric_name(name)}"] = float(np.nanmean(folds))
    return values


def _subtype_metrics(predictions: Predictions, decisions: HardLabels) -> dict[str, float]:
    """Return `recall/<subtype>`: share of its images with the right label, every case counting the same."""
    values = {}
    for name in sorted(set(predictions.subtype) - {""}):
        rows = predictions.subtype == name
        chosen = HardLabels(decisions.predicted[:, rows], decisions.threshold)
        values[f"{RECALL}{metric_name(name)}"] = METRICS["recognition_rate"].value(predictions.select(rows), chosen)
    return values


def metric_name(name: str) -> str:
    """Replace what MLflow does not allow in a metric's name (letters, digits, `_-./` and space) by `_`."""
    return re.sub(r"[^A-Za-z0-9_\-./ ]", "_", name)
