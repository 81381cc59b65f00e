"""The rule that proposes one of several trials: the cheapest of those that are as good as the best one."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import FloatArray

MARGIN = 0.002  # largest difference to the best score at which a cheaper trial is proposed instead
_EQUAL = 1e-9  # tolerance of scores: the last digits of sums of weights such as 1/7 depend on the order of rows


Spread = Callable[[int], "FloatArray"]


def spread_of_differences(samples: FloatArray) -> Spread:
    """Return a function of a trial that returns how much the differences to its score vary over cases.

    Args:
        samples: Bootstrap scores of every trial, from the same draws; nan if a draw cannot be scored. Shape (n_trials,
            n_draws).

    Returns:
        A function that returns the standard deviation of the difference between the scores of each trial and of the
        given one, shape (n_trials,); 0 if no draw has the scores of all trials.
    """
    whole = samples[:, np.isfinite(samples).all(axis=0)]
    centred = whole - whole.mean(axis=1, keepdims=True) if whole.shape[1] else np.zeros((len(samples), 1))
    variance = np.einsum("td,td->t", centred, centred) / centred.shape[1]

    def spread(trial: int) -> FloatArray:
        covariance = centred @ centred[trial] / centred.shape[1]
        found = np.sqrt(np.maximum(variance[trial] + variance - 2 * covariance, 0.0))
        found[trial] = 0.0
        return np.asarray(found)

    return spread


def proposed(scores: FloatArray, spread: Spread, cost: FloatArray, level: float = 0.95) -> npt.NDArray[np.bool_]:
    """Return which trial is proposed on each sample of cases.

    A trial is a candidate if its score is at most `MARGIN` below the best score of the sample and it is tied with a
    trial of that score: the interval of their difference, the difference plus and minus a multiple of its standard
    deviation, contains 0. The cheapest candidate is proposed; of equally cheap candidates, the one with the best score.

    The same function selects on all cases and on every bootstrap sample of the correction for the search. Therefore the
    standard deviations are an argument: they are estimated once, from bootstrap samples of all cases, since a bootstrap
    within every bootstrap sample would take a thousand times as long.

    Args:
        scores: Score of every trial on each sample of cases; nan for all trials if a sample cannot be scored. Shape
            (n_trials, n_samples).
        spread: Standard deviations from `spread_of_differences`.
        cost: Cost of the deployed model of every trial, in any unit; nan or inf if unknown, in which case every
            candidate of known cost is cheaper. Shape (n_trials,).
        level: Level of the two-sided interval of a difference, between 0 and 1.

    Returns:
        Mask with one proposed trial per sample; several if they have the same cost and the same score, and none if the
        sample cannot be scored. Shape (n_trials, n_samples).

    Source:
        Ours; the one-standard-error rule of Breiman et al., "Classification and regression trees", 1984, has the same
        purpose. `MARGIN` limits what can be lost where few cases make all trials tied.
    """
    gap = scores.max(axis=0) - scores
    width = np.zeros_like(gap)  # largest standard deviation of the difference to a trial with the best score
    leading = gap <= _EQUAL
    for trial in np.flatnonzero(leading.any(axis=1)):
        leads = leading[trial]
        width[:, leads] = np.maximum(width[:, leads], spread(int(trial))[:, None])
    candidate = (gap <= MARGIN + _EQUAL) & (gap <= NormalDist().inv_cdf((1 + level) / 2) * width + _EQUAL)
    price = np.where(candidate, np.where(np.isnan(cost), np.inf, cost)[:, None], np.inf)
    cheapest = candidate & (price <= price.min(axis=0) * (1 + _EQUAL))
    top = np.where(cheapest, scores, -np.inf).max(axis=0)
    return np.asarray(cheapest & (scores >= top - _EQUAL))
