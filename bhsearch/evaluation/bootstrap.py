"""Bootstrap over groups of cases. Folds, repeats and trials share the same bootstrap samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from bhsearch.errors import DataError
from bhsearch.evaluation.metrics import METRICS, Metric, iter_folds, weighted_auc
from bhsearch.evaluation.predictions import mean_over_conditions
from bhsearch.evaluation.thresholds import HardLabels

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import FloatArray, IntArray, Predictions
    from bhsearch.tasks.base import Task

INTERVAL_NOTE = "over cases; variation of training not included"
_BLOCK_CELLS = 2_000_000  # maximum number of elements of an intermediate matrix; 16 MB in float64


class Interval(NamedTuple):
    """Interval with a lower and an upper end."""

    low: float
    high: float


def group_draws(
    group: npt.NDArray[np.int64], stratum: npt.NDArray[np.int64], n_draws: int = 1000, seed: int = 0
) -> IntArray:
    """Draw bootstrap samples of the groups, with replacement within each stratum.

    Args:
        group: Group number per image. Shape (n_images,).
        stratum: Stratum of the image's group. Shape (n_images,).
        n_draws: Number of bootstrap samples, 1 or more.
        seed: Random seed. The samples do not depend on the order of the images.

    Returns:
        Number of times each group was drawn, with groups in ascending order. Shape (n_draws, n_groups).

    Raises:
        DataError: If the images of a group are in several strata.
    """
    groups, first, number = np.unique(group, return_index=True, return_inverse=True)
    stratum_of_group = stratum[first]
    if (stratum_of_group[number] != stratum).any():
        split = groups[np.unique(number[stratum_of_group[number] != stratum])]
        raise DataError(
            f"All images of a group must be in the same stratum, but those of group {split[0]} are in several."
        )
    generator = np.random.default_rng(seed)
    counts = np.zeros((n_draws, len(groups)), dtype=np.int64)
    for value in np.unique(stratum_of_group):
        members = np.flatnonzero(stratum_of_group == value)
        drawn = generator.integers(len(members), size=(n_draws, len(members)))
        flat = (drawn + np.arange(n_draws)[:, None] * len(members)).ravel()
        counts[:, members] = np.bincount(flat, minlength=counts[:, members].size).reshape(n_draws, -1)
    return counts


def with_observed(group: npt.NDArray[np.int64], draws: IntArray | None) -> tuple[IntArray, npt.NDArray[np.intp]]:
    """Put the observed data, in which each group counts once, before the bootstrap samples.

    Args:
        group: Group number per image. Shape (n_images,).
        draws: Counts from `group_draws`; None for the observed data only. Shape (n_draws, n_groups).

    Returns:
        The counts, shape (n_draws + 1, n_groups), and the column of each image's group in them, shape (n_images,).
    """
    _, number = np.unique(group, return_inverse=True)
    observed = np.ones((1, number.max() + 1), dtype=np.int64)
    return observed if draws is None else np.concatenate([observed, draws]), number


def bootstrap_metric(metric: Metric, predictions: Predictions, decisions: HardLabels, draws: IntArray) -> FloatArray:
    """Compute a metric on each bootstrap sample.

    A bootstrap sample multiplies the weight of each image by the number of times the group of the image was drawn. The
    weighted AUC is computed by `bootstrap_auc`, which returns the same values a hundred times as fast.

    Args:
        metric: The metric.
        predictions: Out-of-fold predictions, or test predictions as a single fold.
        decisions: Predicted labels of the same images. Thresholds are not fitted again in each bootstrap sample.
        draws: Counts from `group_draws` for the same images. Shape (n_draws, n_groups).

    Returns:
        Mean over the folds or repeats for which the metric is defined in the bootstrap sample; nan if there are none.
        Shape (n_draws,).

    Raises:
        DataError: If `draws` and `predictions` differ in the number of groups.
    """
    if metric.per_fold and metric.function is weighted_auc:
        return bootstrap_auc(predictions, draws)
    number = _group_number(predictions, draws)
    total, n_defined = np.zeros(len(draws)), np.zeros(len(draws))
    for part in metric.parts(predictions, decisions):
        height = max(1, _BLOCK_CELLS // len(part.rows))
        for top in range(0, len(draws), height):
            block = slice(top, top + height)
            weight = part.weight * draws[block][:, number[part.rows]]
            values = metric.function(part.label, part.prediction, weight)
            defined = ~np.isnan(values)
            total[block] += np.where(defined, values, 0.0)
            n_defined[block] += defined
    return np.asarray(np.divide(total, n_defined, out=np.full(len(draws), np.nan), where=n_defined > 0))


def _group_number(predictions: Predictions, draws: IntArray | FloatArray) -> IntArray:
    """Return the column of `draws` that belongs to each image's group. Shape (n_images,)."""
    _, number = np.unique(predictions.group, return_inverse=True)
    if draws.ndim != 2 or draws.shape[1] != number.max() + 1:
        raise DataError(
            f"`draws` must have one column for each of the {number.max() + 1} groups of the predictions, but has shape "
            f"{draws.shape}. Create it with `group_draws` from the same predictions."
        )
    return np.asarray(number, dtype=np.int64)


def bootstrap_scores(predictions: Predictions, draws: IntArray, task: Task) -> FloatArray:
    """Compute the score of a trial on each bootstrap sample; see `bootstrap_metric` and `metrics.score`.

    If shifts count in the score, all conditions of a bootstrap sample have the same cases.

    Args:
        predictions: Out-of-fold predictions.
        draws: Counts from `group_draws` for the same images. Shape (n_draws, n_groups).
        task: Task that names the score.
    """
    metric, decisions = METRICS[task.score], HardLabels.placeholder(predictions)
    return mean_over_conditions(predictions, lambda one: bootstrap_metric(metric, one, decisions, draws))


def bootstrap_auc(predictions: Predictions, draws: IntArray | FloatArray) -> FloatArray:
    """Compute the mean AUC over folds on each bootstrap sample.

    A bootstrap sample multiplies the weight of each image by the number of times the group of the image was drawn. The
    AUC of a fold is a ratio of sums over pairs of a malignant and a benign image. These sums are first computed per
    pair of groups, once for all bootstrap samples. The AUC of a bootstrap sample with counts c is then `c' wins c / (c'
    positive * c' negative)`. This is exact, including ties, and needs only products of small matrices per bootstrap
    sample instead of a pass over the images.

    Args:
        predictions: Out-of-fold predictions.
        draws: Counts from `group_draws` for the same images, or any other weights of groups. Shape (n_draws, n_groups).

    Returns:
        Mean over the folds that keep both classes in the bootstrap sample; nan if there are none. Shape (n_draws,).

    Raises:
        DataError: If `draws` and `predictions` differ in the number of groups.
    """
    number = _group_number(predictions, draws)
    total, n_kept = np.zeros(len(draws)), np.zeros(len(draws))
    for repeat, _, rows in iter_folds(predictions):
        positive, negative = (rows[predictions.label[rows] == value] for value in (1, 0))
        if not len(positive) or not len(negative):
            continue
        wins, weight = _pair_wins(predictions, repeat, number, positive, negative, draws)
        kept = weight > 0
        total[kept] += wins[kept] / weight[kept]
        n_kept += kept
    return np.asarray(np.divide(total, n_kept, out=np.full(len(draws), np.nan), where=n_kept > 0))


def _pair_wins(
    predictions: Predictions,
    repeat: int,
    number: IntArray,
    positive: IntArray,
    negative: IntArray,
    draws: IntArray | FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Sum the weights of pairs of images in one validation fold, on each bootstrap sample.

    Args:
        predictions: Out-of-fold predictions.
        repeat: Number of the repeat.
        number: Column of `draws` per image. Shape (n_images,).
        positive: Row numbers of the fold's malignant images.
        negative: Row numbers of the fold's benign images.
        draws: Counts. Shape (n_draws, n_groups).

    Returns:
        Sum over the correctly ranked pairs, and sum over all pairs. Two arrays of shape (n_draws,).
    """
    probability, weight = predictions.probability[repeat], predictions.weight[repeat]
    positive = positive[np.argsort(number[positive], kind="stable")]
    negative = negative[np.argsort(probability[negative], kind="stable")]
    positive_groups, starts = np.unique(number[positive], return_index=True)
    negative_groups, column = np.unique(number[negative], return_inverse=True)
    below = np.searchsorted(probability[negative], probability[positive], side="left")
    through = np.searchsorted(probability[negative], probability[positive], side="right")
    positive_sums = np.add.reduceat(weight[positive], starts)
    negative_sums = np.bincount(column, weight[negative])
    wins, pairs = np.zeros(len(draws)), np.zeros(len(draws))
    width = max(1, _BLOCK_CELLS // max(len(positive), len(negative) + 1))
    # Convert counts to float64 block by block, since they are the largest matrix if there are thousands of groups.
    height = max(1, _BLOCK_CELLS // max(len(positive_groups), min(width, len(negative_groups))))
    for left in range(0, len(negative_groups), width):
        inside = np.flatnonzero((column >= left) & (column < left + width))
        groups = negative_groups[left : left + width]
        running = np.zeros((len(negative) + 1, len(groups)))
        running[inside + 1, column[inside] - left] = weight[negative[inside]]
        np.cumsum(running, axis=0, out=running)
        ranked = (running[below] + running[through]) * (0.5 * weight[positive])[:, None]
        matrix = np.add.reduceat(ranked, starts, axis=0)
        sums = negative_sums[left : left + width]
        for top in range(0, len(draws), height):
            block = slice(top, top + height)
            rows, columns = draws[block, positive_groups].astype(np.float64), draws[block, groups].astype(np.float64)
            wins[block] += np.einsum("dg,dg->d", rows @ matrix, columns)
            pairs[block] += (rows @ positive_sums) * (columns @ sums)
    return wins, pairs


def interval(samples: FloatArray, level: float = 0.95) -> Interval:
    """Return the percentile interval of bootstrap samples.

    Args:
        samples: One value per bootstrap sample; nan and infinite values are ignored. Shape (n_draws,).
        level: Share of the bootstrap samples within the interval, between 0 and 1.

    Returns:
        The interval; both ends are nan if no finite sample is left.

    Raises:
        ValueError: If `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"`0 < level < 1` must hold, but got {level=}.")
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return Interval(np.nan, np.nan)
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def difference_interval(
    first: Predictions, second: Predictions, task: Task, n_draws: int = 1000, seed: int = 0
) -> Interval:
    """Return the 95 % percentile interval of the difference between two scores, over the same bootstrap samples.

    Args:
        first: Out-of-fold predictions, whose groups are drawn.
        second: Predictions of the same images and folds, whose score is subtracted.
        task: Task that names the score.
        n_draws: Number of bootstrap samples, 1 or more.
        seed: Random seed of the bootstrap.
    """
    draws = group_draws(first.group, first.stratum, n_draws, seed)
    return paired_difference(bootstrap_scores(first, draws, task), bootstrap_scores(second, draws, task))


def paired_difference(first: FloatArray, second: FloatArray, level: float = 0.95) -> Interval:
    """Return the percentile interval of `first - second` over paired samples, so that common variation cancels.

    Args:
        first: Bootstrap scores of a trial or model. Shape (n_draws,).
        second: Bootstrap scores of another trial or model, from the same bootstrap samples. Shape (n_draws,).
        level: Share of the bootstrap samples within the interval, between 0 and 1.

    Raises:
        DataError: If `first` and `second` have different numbers of bootstrap samples.
    """
    if first.shape != second.shape:
        raise DataError(
            "A paired difference requires two arrays of the same shape, computed from the same bootstrap samples, but "
            f"got {first.shape} and {second.shape}."
        )
    return interval(first - second, level)
