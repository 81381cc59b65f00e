"""Case-weighted metrics. One weighted function per metric is used for trials, the sealed test and bootstrap samples."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.predictions import FloatArray, IntArray, LabelArray, Predictions, mean_over_conditions
from bhsearch.evaluation.thresholds import HardLabels, cross_fitted_labels
from bhsearch.tasks.base import Task

N_CALIBRATION_BINS = 10
AUC = "auc"
AUC_FOLD_STD = "auc_fold_std"
# Prefixes of the names of metrics on subsets; MLflow shows each prefix as a section.
MAGNIFICATION, RECALL = "magnification/", "recall/"
_LONGEST_NAME = 150  # characters of a part of a metric name; MLflow allows 250 for the whole name

# Function (label, prediction, weight) -> value. Label and prediction have shape (n_images,), the weight has shape
# (..., n_images) and the value has shape (...). Undefined values are nan, such as the sensitivity if no malignant image
# has a weight.
MetricFunction = Callable[[LabelArray, npt.NDArray[Any], FloatArray], FloatArray]


def weighted_auc(label: LabelArray, probability: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Compute the area under the weighted ROC curve (AUC).

    The AUC is the weighted share of pairs of a malignant and a benign image in which the malignant image has the higher
    score; a tie counts as half.

    Args:
        label: 0 or 1. Shape (n_images,).
        probability: Scores that increase with malignancy, such as probabilities or logits. Shape (..., n_images).
        weight: Weight per image, 0 or more, broadcast against `probability`. Scores with shape (n_images,) are sorted
            only once for all weights. Shape (..., n_images).

    Returns:
        One AUC per leading index; nan if a class has zero weight or a score is nan. Shape (...).

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
        # All images of a tie get the same two sums: the weight below the tie and the weight through its end. The sums
        # are increasing, so a running maximum carries the first value of a tie forward, and a running minimum carries
        # the last value of a tie backward.
        below[..., 1:] = np.where(rises, below[..., 1:], 0.0)
        below = np.maximum.accumulate(below, axis=-1)
        through[..., :-1] = np.where(rises, through[..., :-1], np.inf)
        through = np.minimum.accumulate(through[..., ::-1], axis=-1)[..., ::-1]
    wins = 0.5 * np.einsum("...i,...i->...", positive, below + through)
    with np.errstate(divide="ignore", invalid="ignore"):
        area = wins / (n_positive * n_negative)
    return np.asarray(np.where(np.isnan(ranked[..., -1]), np.nan, area))  # nan sorts last


def _ranked(values: FloatArray, order: npt.NDArray[np.intp]) -> FloatArray:
    """Reorder values along the last axis; a one-dimensional `values` or `order` is used for all leading indices."""
    if order.ndim == 1:
        return np.asarray(values[..., order])
    if values.ndim == 1:
        return np.asarray(values[order])
    shape = np.broadcast_shapes(values.shape, order.shape)
    return np.take_along_axis(np.broadcast_to(values, shape), np.broadcast_to(order, shape), axis=-1)


def cumulative_counts(
    label: LabelArray, probability: npt.NDArray[Any], weight: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Compute the weights of true and false positives at every threshold, from the highest threshold down.

    Args:
        label: 0 or 1. Shape (n_images,).
        probability: P(malignant). Shape (n_images,).
        weight: Weight per image. Shape (..., n_images).

    Returns:
        Weights of the true positives and of the false positives, each of shape (..., 1 + n_distinct), and the
        thresholds, of shape (1 + n_distinct,). The first threshold is inf, at which both weights are 0.
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
    """Compute the average precision: the mean precision over thresholds, weighted by the increase in recall.

    Args:
        label: 0 or 1. Shape (n_images,).
        probability: Scores that increase with malignancy, such as probabilities or logits. Shape (n_images,).
        weight: Weight per image, 0 or more. Shape (..., n_images).

    Returns:
        Values in [0, 1]; nan if the malignant class has zero weight. Shape (...).

    Source:
        Definition of scikit-learn's `average_precision_score(sample_weight=)`, without interpolation.
    """
    tp, fp, _ = cumulative_counts(label, probability, weight)
    called = tp[..., 1:] + fp[..., 1:]
    precision = np.divide(tp[..., 1:], called, out=np.zeros_like(called), where=called > 0)
    return _ratio((np.diff(tp, axis=-1) * precision).sum(axis=-1), tp[..., -1])


def weighted_sensitivity(label: LabelArray, predicted: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Compute the weighted share of malignant images that are classified as malignant; nan without malignant images."""
    return _ratio(weight @ (label * predicted), weight @ label)


def weighted_specificity(label: LabelArray, predicted: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Compute the weighted share of benign images that are classified as benign; nan without benign images."""
    return _ratio(weight @ ((1 - label) * (1 - predicted)), weight @ (1 - label))


def weighted_balanced_accuracy(label: LabelArray, predicted: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Compute the mean of sensitivity and specificity; nan if a class has zero weight."""
    both = weighted_sensitivity(label, predicted, weight) + weighted_specificity(label, predicted, weight)
    return np.asarray(both / 2)


def weighted_f1(label: LabelArray, predicted: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Compute the F1 score of the malignant class; 0 if no image is malignant or classified as malignant."""
    tp = weight @ (label * predicted)
    fn, fp = weight @ (label * (1 - predicted)), weight @ ((1 - label) * predicted)
    return np.asarray(2 * tp / np.maximum(2 * tp + fn + fp, np.finfo(float).tiny))


def weighted_accuracy(label: LabelArray, predicted: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Compute the weighted share of images with the correct predicted label."""
    return _ratio(weight @ (predicted == label).astype(np.float64), weight.sum(axis=-1))


def weighted_brier(label: LabelArray, probability: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Compute the Brier score: the weighted mean squared difference between probability and label."""
    return _ratio(weight @ (probability.astype(np.float64) - label) ** 2, weight.sum(axis=-1))


def weighted_ece(label: LabelArray, probability: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Compute the expected calibration error over `N_CALIBRATION_BINS` bins of equal width."""
    exact = probability.astype(np.float64)
    gap = np.zeros((len(exact), N_CALIBRATION_BINS))
    gap[np.arange(len(exact)), calibration_bin(exact)] = exact - label
    return _ratio(np.abs(weight @ gap).sum(axis=-1), weight.sum(axis=-1))


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide element by element, with nan for zero denominators."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(np.asarray(denominator) == 0, np.nan, np.divide(numerator, denominator)))


@dataclass(frozen=True)
class Metric:
    """Metric that is computed from the predictions of a trial or a test.

    Attributes:
        name: Key in results and in MLflow, such as `auc`.
        title: Full name for tables and reports.
        function: Weighted function, see `MetricFunction`.
        needs_threshold: Whether `function` takes predicted labels instead of probabilities.
        per_fold: Whether the value is the mean over all validation folds. If not, the folds of a repeat are pooled, and
            the value is the mean over repeats.
        weight_by_case: Whether the weight of an image is 1/(images of its group) rather than 1/(images of its group in
            the validation fold). The weights differ only for groups in several folds.
        greater_is_better: Whether higher values are better.
        low, high: Smallest and largest possible value.
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
        """Compute the metric; nan if it is undefined for any fold (or, with pooled folds, any repeat)."""
        return float(np.mean([self.function(*part.arguments) for part in self.parts(predictions, decisions)]))


@dataclass(frozen=True, eq=False)
class MetricInput:
    """Arguments of one call of a `MetricFunction`, with the rows of the images.

    Attributes:
        rows: Row numbers of the images in the predictions. Shape (n_images,).
        label: 0 or 1. Shape (n_images,).
        prediction: Probabilities or predicted labels. Shape (n_images,).
        weight: Weight per image. Shape (n_images,).
    """

    rows: IntArray
    label: LabelArray
    prediction: npt.NDArray[Any]
    weight: FloatArray

    @property
    def arguments(self) -> tuple[LabelArray, npt.NDArray[Any], FloatArray]:
        """Label, prediction and weight, in the order of the arguments of a `MetricFunction`."""
        return self.label, self.prediction, self.weight


# All metrics by name, in the order of tables; used for trials, sealed tests, reports, model cards and MLflow.
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
    """Compute a metric of probabilities for every validation fold.

    Args:
        predictions: Out-of-fold predictions.
        metric: Function of label, probability and weight.

    Returns:
        Value per repeat and fold; nan for folds without images and where the metric is undefined. Shape (n_repeats,
        n_folds).
    """
    scores = np.full((predictions.n_repeats, predictions.n_folds), np.nan)
    for repeat, fold, rows in iter_folds(predictions):
        scores[repeat, fold] = metric(
            predictions.label[rows], predictions.probability[repeat, rows], predictions.weight[repeat, rows]
        )
    return scores


def iter_folds(predictions: Predictions) -> Iterator[tuple[int, int, npt.NDArray[np.intp]]]:
    """Iterate over the validation folds that have images, as (repeat, fold, row numbers of the images)."""
    for repeat in range(predictions.n_repeats):
        for fold in range(predictions.n_folds):
            rows = np.flatnonzero(predictions.fold[repeat] == fold)
            if len(rows):
                yield repeat, fold, rows


def score_function(task: Task) -> MetricFunction:
    """Return the weighted function that computes the score of a fold, which `Task.score` names."""
    return METRICS[task.score].function


def score(predictions: Predictions, task: Task) -> float:
    """Compute the score of a trial: the mean of the task's weighted metric over the folds of all repeats.

    If shifts count in the score, it is the mixed score, the weighted mean over the conditions of the predictions. The
    score is nan if a fold lacks a class, which indicates an error: a split has both classes in every fold.
    """
    return mean_over_conditions(predictions, lambda one: clean_score(one, task))


def clean_score(predictions: Predictions, task: Task) -> float:
    """Compute the score of the unchanged images alone, which is that of the trial if no shift counts in it."""
    return float(fold_scores(predictions, score_function(task)).mean())


def epoch_scores(
    probability: npt.NDArray[Any],
    label: LabelArray,
    fold: npt.NDArray[np.int8],
    weight: FloatArray,
    function: MetricFunction,
) -> FloatArray:
    """Compute the score of a trial after every epoch, for learning curves.

    Args:
        probability: Out-of-fold P(malignant) after each epoch. Shape (n_epochs, n_repeats, n_images).
        label: 0 or 1. Shape (n_images,).
        fold: Validation fold of each image in each repeat. Shape (n_repeats, n_images).
        weight: Image weights from `case_weights(group, fold)`. Shape (n_repeats, n_images).
        function: Weighted metric, from `score_function`, which must accept predictions of shape (n_epochs, n_images).

    Returns:
        Mean of the metric over the folds of all repeats; nan if a probability is nan. The last value is the score of
        the trial. Shape (n_epochs,).
    """
    columns = [
        function(label[rows], probability[:, repeat, rows], weight[repeat, rows])
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
    """Compute case-weighted predicted and observed probabilities in bins of equal width.

    Returns:
        Share of the total weight, mean predicted probability, and share of malignant images per repeat and bin. The
        last two are nan for empty bins. Each array has shape (n_repeats, N_CALIBRATION_BINS).
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


def trial_metrics(predictions: Predictions, task: Task, decisions: HardLabels | None = None) -> dict[str, float]:
    """Compute all metrics of a finished trial or a test, without intervals and durations.

    Args:
        predictions: Out-of-fold predictions, or test predictions as a single fold.
        task: Task that names the metrics and the threshold rule.
        decisions: Predicted labels at a predefined threshold; None for labels at cross-fitted thresholds.

    Returns:
        Values by name: `auc`, `auc_fold_std` (standard deviation over the folds of all repeats, ddof 1), the other
        metrics of the task, then `magnification/<magnification>` (AUC) for each magnification of the data, and
        `recall/<subtype>` (case-weighted share of images with the correct predicted label) for each subtype.
    """
    folds = fold_scores(predictions)
    decisions = cross_fitted_labels(predictions, task) if decisions is None else decisions
    return {
        AUC: float(folds.mean()),
        AUC_FOLD_STD: float(folds.std(ddof=1)) if folds.size > 1 else 0.0,
        **{name: metric.value(predictions, decisions) for name, metric in metrics_of(task).items() if name != AUC},
        **_magnification_metrics(predictions),
        **_subtype_metrics(predictions, decisions),
    }


def confusion(predictions: Predictions, predicted: npt.NDArray[np.int8], weight: FloatArray) -> FloatArray:
    """Compute the weighted confusion matrix of each repeat, with true labels in rows and predicted labels in columns.

    Args:
        predictions: Predictions with the true labels.
        predicted: Predicted labels. Shape (n_repeats, n_images).
        weight: Weight per image. Shape (n_repeats, n_images).

    Returns:
        Sums of the weights. Shape (n_repeats, 2, 2).
    """
    cell = 2 * predictions.label + predicted
    counts = [np.bincount(row, values, minlength=4) for row, values in zip(cell, weight, strict=True)]
    return np.array(counts, dtype=np.float64).reshape(-1, 2, 2)


def _magnification_metrics(predictions: Predictions) -> dict[str, float]:
    """Return the AUC of each magnification as `magnification/<name>`, averaged over the folds with both classes."""
    values = {}
    names = metric_names(set(predictions.magnification) - {""})
    for name, valid in names.items():
        folds = fold_scores(predictions.select(predictions.magnification == name))
        if np.isfinite(folds).any():
            values[f"{MAGNIFICATION}{valid}"] = float(np.nanmean(folds))
    return values


def _subtype_metrics(predictions: Predictions, decisions: HardLabels) -> dict[str, float]:
    """Return the share of each subtype's images with the correct label as `recall/<name>`, with equal case weights."""
    values = {}
    names = metric_names(set(predictions.subtype) - {""})
    for name, valid in names.items():
        rows = predictions.subtype == name
        chosen = HardLabels(decisions.predicted[:, rows], decisions.threshold)
        values[f"{RECALL}{valid}"] = METRICS["recognition_rate"].value(predictions.select(rows), chosen)
    return values


def metric_names(names: Iterable[str]) -> dict[str, str]:
    """Return a different valid MLflow metric name for each name.

    Characters other than letters and digits of any script, spaces and `_-.` become `_`, as slashes separate sections.
    Long names are cut. Names that would be the same afterwards get a number.
    """
    found: dict[str, str] = {}
    for name in sorted(set(names)):
        valid = re.sub(r"[^\w\-. ]", "_", unicodedata.normalize("NFC", name))[:_LONGEST_NAME]
        stem = valid if valid.strip(". ") else re.sub(r"[. ]", "_", valid)
        taken, number = set(found.values()), 2
        while (candidate := stem if number == 2 and stem not in taken else f"{stem}_{number}") in taken:
            number += 1
        found[name] = candidate
    return found
