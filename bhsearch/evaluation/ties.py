"""Which trials cannot be told from the best one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bhsearch.errors import DataError

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import FloatArray

_SAME_SCORE = 1e-9  # a difference of scores that is rounding
_SAME_SPREAD = 1e-7  # standard deviation of a difference below which two trials are copies


def tied_with_best(scores: FloatArray, samples: FloatArray, level: float = 0.95) -> npt.NDArray[np.bool_]:
    """Mark the trials that may be the best one in truth.

    A trial is compared with all others at once. Its gap to each is divided by the bootstrap standard deviation of that
    gap, so that a noisy trial does not blur the comparison with a precise one. The trial is tied if its largest gap is
    at most the `level` point of what the largest gap would be by chance, over paired resamples and centred at the
    observed gaps. If the trial is the best in truth, it is marked with probability `level` or more, however many
    trials it competes with. A noisy trial can be tied where a precise one with a higher score is not.

    Args:
        scores: Score of every trial. Shape (T,).
        samples: Bootstrap scores under the same draws. Shape (T, n_draws).
        level: Between 0 and 1.

    Returns:
        True where tied; the best, and every equal of it, always is. Shape (T,).

    Raises:
        DataError: If there is no trial, a score is not a number, the shapes disagree, or no draw has all samples.

    Source:
        Multiple comparisons with the best (Hsu, "Simultaneous confidence intervals for all distances from the best",
        Annals of Statistics 9, 1981), each trial in turn as the control; studentised max-T by the bootstrap (Romano
        and Wolf, "Exact and approximate stepdown methods for multiple hypothesis testing", JASA 100, 2005).
    """
    if scores.ndim != 1 or not len(scores) or samples.ndim != 2 or len(samples) != len(scores):
        raise DataError(f"every trial needs a score and samples, but got shapes {scores.shape} and {samples.shape}.")
    if not np.isfinite(scores).all():
        raise DataError(
            f"every score must be a number, but got {scores[~np.isfinite(scores)][0]}. Leave out failed trials."
        )
    whole = samples[:, np.isfinite(samples).all(axis=0)]
    if not whole.shape[1]:
        raise DataError(
            f"ties need at least one draw with a score for every trial, but none of {samples.shape[1]} has."
        )
    errors = whole - scores[:, None]
    covariance = np.atleast_2d(np.cov(errors, bias=True))
    variance = covariance.diagonal()
    by_chance = errors.astype(np.float32)  # a third of the time of float64, and a quantile needs no more digits
    tied = []
    for trial in range(len(scores)):
        spread = np.sqrt(np.maximum(variance + variance[trial] - 2 * covariance[trial], 0.0))
        tied.append(_may_be_best(scores - scores[trial], by_chance, trial, spread, level))
    return np.array(tied)


def _may_be_best(
    gap: FloatArray, by_chance: npt.NDArray[np.float32], trial: int, spread: FloatArray, level: float
) -> bool:
    """Whether no other trial is better than this one by more than chance explains.

    Args:
        gap: Score of every trial minus that of this one. Shape (T,).
        by_chance: Bootstrap samples minus scores. Shape (T, n_draws).
        trial: Which one this is.
        spread: Standard deviation of every gap. Shape (T,).
        level: Between 0 and 1.
    """
    copies = spread <= _SAME_SPREAD  # the trial itself among them: nothing is left to chance
    if (gap[copies] > _SAME_SCORE).any():
        return False
    if copies.all():
        return True
    others = ~copies
    largest = (gap[others] / spread[others]).max()
    chances = (by_chance[others] - by_chance[trial]) / spread[others, None].astype(np.float32)
    return bool(largest <= max(float(np.quantile(chances.max(axis=0), level)), 0.0))
