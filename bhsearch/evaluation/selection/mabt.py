"""Lower confidence bound of the score of a selected trial: multiplicity-adjusted bootstrap tilting (MABT)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, logsumexp

from bhsearch.errors import DataError
from bhsearch.evaluation.bootstrap import bootstrap_auc
from bhsearch.evaluation.metrics import iter_folds
from bhsearch.evaluation.predictions import mean_over_conditions

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import FloatArray, IntArray, Predictions

LEVEL = 0.975
# Nominal level of the bound that is reported: at 0.975, it holds too rarely if the search is adaptive.
REPORTED_LEVEL = 0.995
BOUND_NOTE = "one-sided, adjusted for the search (MABT); approximate, held in 95 to 99 % of simulated studies"
MIXED_BOUND_NOTE = (
    "one-sided, adjusted for the search (MABT); approximate, and its coverage is not measured for mixed scores"
)
_EQUAL = 1e-9  # tolerance of scores: the last digits of sums of weights such as 1/7 depend on the order of rows
_SAME_SPREAD = 1e-7  # standard deviation of bootstrap scores below which a score does not vary
_BLOCK_CELLS = 2_000_000  # maximum number of elements of an intermediate matrix; 16 MB in float64
_FURTHEST = 500.0  # maximum difference of two exponents of tilted weights, so that no weight becomes 0


def lower_bound(
    predictions: Sequence[Predictions],
    scores: FloatArray,
    samples: FloatArray,
    draws: IntArray,
    level: float = LEVEL,
    selected: npt.NDArray[np.bool_] | None = None,
) -> float:
    """Return a lower confidence bound of the expected score of the selected trial, adjusted for the selection.

    The bound is the score of the selected trial under the tilted distribution of cases for which the observed score
    would be just too good to be credible. The distribution gives each group a probability within its stratum that is
    exponentially tilted by the influence of the group on the score. The probability that a bootstrap score from the
    tilted distribution reaches the observed score is estimated from the draws by importance sampling. The tilt is
    chosen so that this probability equals `selection_level(...)`, which is smaller than `1 - level` because one of
    many trials was selected.

    If the bootstrap scores of the selected trial do not vary, as for a perfect score, no tilt exists. The bound is then
    the exact binomial bound of a perfect score: if every one of n disjoint pairs of a malignant and a benign group is
    ranked correctly, the AUC is at least `level ** (1 / n)` with `level` the selection level.

    The bound is approximate for a search that chose trials by the scores of earlier trials, since the trials that it
    would have run on other cases are not among the competitors. Variation of training is not included. The coverage is
    measured by `experiments/benchmarks/bound_coverage.py`, for the trial with the best score. Studies report the bound
    at `REPORTED_LEVEL`.

    Args:
        predictions: Out-of-fold predictions of every trial, on the same images, folds and groups.
        scores: Score of every trial. Shape (n_trials,).
        samples: Bootstrap scores of every trial, from `draws`; nan if a draw cannot be scored. Shape (n_trials,
            n_draws).
        draws: Counts from `group_draws` for the same images. Shape (n_draws, n_groups).
        level: Confidence level of the one-sided bound, between 0.5 and 1.
        selected: Mask of the selected trial; None for the trial with the best score. Shape (n_trials,).

    Returns:
        The bound, between 0 and the score of the trial. If several trials are selected, or have the best score, the
        lowest of their bounds.

    Raises:
        DataError: If the shapes disagree, a score is nan, or every bootstrap sample lacks the score of
            at least one trial.
        ValueError: If `level` is not between 0.5 and 1.

    Source:
        Rink and Brannath, "Post-selection confidence bounds for prediction performance", Machine Learning 114:82, 2025;
        bootstrap tilting: Efron, "Nonparametric standard errors and confidence intervals", Canadian Journal of
        Statistics 9, 1981. Ours: groups within strata instead of rows, the mean of fold scores, and the computation of
        the selection level.
    """
    if not 0.5 < level < 1:
        raise ValueError(f"`0.5 < level < 1` must hold, but got {level=}.")
    if samples.shape != (len(scores), len(draws)) or len(predictions) != len(scores):
        raise DataError(
            f"Every trial needs predictions, a score and a sample per draw, but got {len(predictions)} predictions, "
            f"{len(scores)} scores, {len(draws)} draws and samples of shape {samples.shape}."
        )
    scored = np.isfinite(samples).all(axis=0)
    if not np.isfinite(scores).all() or not scored.any():
        raise DataError(
            "Every trial must have a score, and at least one draw must give a score for every trial, but the best "
            f"score is {scores.max()} and {scored.sum()} of {len(draws)} draws can be scored. There are too few cases."
        )
    samples, draws = samples[:, scored], draws[scored]
    winners = np.flatnonzero(scores >= scores.max() - _EQUAL if selected is None else selected)
    _, different = np.unique(samples[winners], axis=0, return_index=True)  # copies of a trial have the same bound
    highest = _highest_deviation(scores, samples)
    bounds = []
    for trial in winners[different]:
        own = _deviations(scores[[trial]], samples[[trial]])[0]
        probability = _level_of(highest, own, 1 - level)
        bounds.append(_tilted_bound(predictions[trial], float(scores[trial]), samples[trial], draws, probability))
    return min(bounds)


def selection_level(scores: FloatArray, samples: FloatArray, trial: int, alpha: float) -> float:
    """Return the error probability at which one trial must be tested so that the best of all is tested at `alpha`.

    The deviations of the bootstrap scores from the observed scores, in standard deviations of each trial, are compared
    by their 97.5 % quantile: that of the trial itself, and that of the largest deviation among all trials. The
    ratio of the normal tail probabilities of these quantiles is the effective number of competing trials, by which
    `alpha` is divided. It is 1 for a single trial and for copies, and close to the number of trials if their scores are
    independent. The normal tail is used because a thousand draws are too few to estimate small probabilities, and one
    quantile is used for every `alpha` so that the result increases with `alpha`.

    Args:
        scores: Score of every trial. Shape (n_trials,).
        samples: Bootstrap scores of every trial, from the same draws, without nan. Shape (n_trials, n_draws).
        trial: Number of the selected trial.
        alpha: Error probability of the one-sided bound, between 0 and 0.5.

    Returns:
        An error probability, at most `alpha`.
    """
    own = _deviations(scores[[trial]], samples[[trial]])[0]
    return _level_of(_highest_deviation(scores, samples), own, alpha)


def _level_of(highest: FloatArray, own: FloatArray, alpha: float) -> float:
    largest, of_trial = (np.quantile(deviations, LEVEL) for deviations in (highest, own))
    if largest <= of_trial:
        return alpha
    return float(alpha * np.exp(log_ndtr(-largest) - log_ndtr(-of_trial)))


def _deviations(scores: FloatArray, samples: FloatArray) -> FloatArray:
    """Return the deviations of bootstrap scores in standard deviations; 0 for a trial whose scores do not vary."""
    spread = samples.std(axis=1)
    varies = spread > _SAME_SPREAD
    scaled = (samples - scores[:, None]) / np.where(varies, spread, 1.0)[:, None]
    return np.where(varies[:, None], scaled, 0.0)


def _highest_deviation(scores: FloatArray, samples: FloatArray) -> FloatArray:
    """Return the largest standardised deviation among the trials, for every draw. Shape (n_draws,)."""
    highest = np.full(samples.shape[1], -np.inf)
    height = max(1, _BLOCK_CELLS // samples.shape[1])
    for top in range(0, len(scores), height):
        block = slice(top, top + height)
        np.maximum(highest, _deviations(scores[block], samples[block]).max(axis=0), out=highest)
    return highest


def _tilted_bound(
    predictions: Predictions, score: float, samples: FloatArray, draws: IntArray, probability: float
) -> float:
    """Return the score under the tilt at which bootstrap scores reach `score` with the given probability."""
    from scipy.optimize import brentq  # imported late: the plan of a study needs only the names of this module

    slopes = influence(predictions)
    _, first = np.unique(predictions.group, return_index=True)
    stratum = predictions.stratum[first]
    reached = samples >= score - _EQUAL
    shift = (draws @ slopes)[reached]
    n_draws, width = len(draws), max(float(np.ptp(slopes[stratum == value])) for value in np.unique(stratum))
    perfect = float(probability ** (1 / _n_disjoint_pairs(predictions)))
    if width <= 0 or not reached.any() or samples.std() <= _SAME_SPREAD:
        return min(score, perfect)

    def excess(strength: float) -> float:
        log_ratio = strength * shift - _log_normaliser(slopes, stratum, strength)
        return float(logsumexp(log_ratio) - np.log(n_draws * probability))

    furthest = -_FURTHEST / width
    if excess(0.0) <= 0:
        return score
    strength = furthest if excess(furthest) > 0 else float(brentq(excess, furthest, 0.0, xtol=1e-12 / width))
    weights = tilted_weights(slopes, stratum, strength)
    tilted = mean_over_conditions(predictions, lambda one: bootstrap_auc(one, weights[None]))
    bound = min(score, float(tilted[0]))
    return min(bound, perfect) if strength == furthest else bound


def tilted_weights(slopes: FloatArray, stratum: npt.NDArray[np.int64], strength: float) -> FloatArray:
    """Return exponentially tilted weights of groups, which sum to the number of groups in every stratum.

    Args:
        slopes: Influence of each group on the score. Shape (n_groups,).
        stratum: Stratum of each group. Shape (n_groups,).
        strength: Factor of the influences in the exponent; negative values lower the score and 0 gives equal weights.

    Returns:
        Weight per group. Shape (n_groups,).
    """
    weights = np.empty(len(slopes))
    for value in np.unique(stratum):
        members = stratum == value
        exponent = strength * slopes[members]
        weights[members] = members.sum() * np.exp(exponent - logsumexp(exponent))
    return weights


def _log_normaliser(slopes: FloatArray, stratum: npt.NDArray[np.int64], strength: float) -> float:
    """Return the logarithm of the expectation of exp(strength * sum of the slopes of a draw) over untilted draws."""
    parts = [strength * slopes[stratum == value] for value in np.unique(stratum)]
    return sum(len(part) * float(logsumexp(part) - np.log(len(part))) for part in parts)


def influence(predictions: Predictions) -> FloatArray:
    """Compute the influence of each group on the score: the derivative by the number of times the group is drawn.

    The derivative of a fold's AUC by the weight of a malignant image is the share of benign weight that the image is
    ranked above, minus the AUC, divided by the malignant weight; and likewise for a benign image.

    Args:
        predictions: Out-of-fold predictions.

    Returns:
        Derivative of the mean AUC over folds, or of the mixed score if shifts count in it, with groups in ascending
        order; 0 for a group that is alone with its label. The sum is 0. Shape (n_groups,).

    Source:
        Placement values: DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988.
    """
    return mean_over_conditions(predictions, _auc_influence)


def _auc_influence(predictions: Predictions) -> FloatArray:
    groups, number = np.unique(predictions.group, return_inverse=True)
    total, n_folds = np.zeros(len(groups)), 0
    for repeat, _, rows in iter_folds(predictions):
        label, weight = predictions.label[rows], predictions.weight[repeat, rows]
        probability, malignant = predictions.probability[repeat, rows], label == 1
        if malignant.all() or not malignant.any():
            continue
        above = _share_below(probability[malignant], probability[~malignant], weight[~malignant])
        below = 1 - _share_below(probability[~malignant], probability[malignant], weight[malignant])
        placement = np.empty(len(rows))
        placement[malignant], placement[~malignant] = above, below
        class_weight = np.where(malignant, weight[malignant].sum(), weight[~malignant].sum())
        area = np.average(above, weights=weight[malignant])
        total += np.bincount(number[rows], weight * (placement - area) / class_weight, minlength=len(groups))
        n_folds += 1
    return total / max(n_folds, 1)


def _share_below(values: npt.NDArray[np.floating], others: npt.NDArray[np.floating], weight: FloatArray) -> FloatArray:
    """Return the share of the weight of `others` below each value; equal values count half. Shape of `values`."""
    order = np.argsort(others, kind="stable")
    running = np.concatenate([[0.0], np.cumsum(weight[order])])
    ends = [running[np.searchsorted(others[order], values, side=side)] for side in ("left", "right")]
    return np.asarray((ends[0] + ends[1]) / (2 * running[-1]))


def _n_disjoint_pairs(predictions: Predictions) -> int:
    """Count the disjoint pairs of a malignant and a benign group within the folds of a repeat; the least of repeats."""
    pairs = np.zeros(predictions.n_repeats, dtype=np.int64)
    for repeat, _, rows in iter_folds(predictions):
        group, label = predictions.group[rows], predictions.label[rows]
        pairs[repeat] += min(len(np.unique(group[label == value])) for value in (0, 1))
    return max(int(pairs.min()), 1)
