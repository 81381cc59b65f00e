"""Which trials cannot be told from the best one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bhsearch.errors import DataError

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import FloatArray


def tied_with_best(scores: FloatArray, samples: FloatArray, level: float = 0.95) -> npt.NDArray[np.bool_]:
    """Mark the trials whose gap to the best could be the luck of having been compared with so many.

    A trial is tied if its gap to the best is at most the `level` point, over paired resamples, of the largest centred
    gap over all trials, where the centred gap of trial t in a draw is
    `(samples[best] - samples[t]) - (scores[best] - scores[t])`. The maximum makes the bound hold for all at once.

    Args:
        scores: Score of every trial. Shape (T,).
        samples: Bootstrap scores under the same draws. Shape (T, n_draws).
        level: Between 0 and 1.

    Returns:
        True where tied; the best (the first of equals) always is. Shape (T,).

    Raises:
        DataError: If there is no trial, a score is not a number, the shapes disagree, or no draw has all samples.

    Source:
        Ours (issue 4, point 1), after the max-T bound of multiple comparisons with the best (Hsu 1981).
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
    best = int(np.argmax(scores))
    gap = scores[best] - scores
    largest = (whole[best] - whole - gap[:, None]).max(axis=0)
    return np.asarray(gap <= np.quantile(largest, level))
