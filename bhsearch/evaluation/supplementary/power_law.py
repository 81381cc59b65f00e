"""Inverse power law of a learning curve: the score approaches a limit as the number of training cases grows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.predictions import FloatArray

FEWEST_SIZES = 4  # sizes of training sets; the curve has three parameters
HIGHEST_SCORE = 1.0
# Smaller exponents give nearly the same curve as a logarithm within the sizes that are fitted.
_EXPONENTS = np.geomspace(0.05, 3.0, 400)


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """Fitted curves `limit - loss * (size / largest size) ** -exponent`; arrays have one element per curve.

    Attributes:
        limit: Score for infinitely many cases.
        loss: Difference between the limit and the fitted score at the largest size; negative if the score falls.
        exponent: Exponent, 0.05 to 3.
        largest: Largest size of the fit.
    """

    limit: FloatArray
    loss: FloatArray
    exponent: FloatArray
    largest: float

    def score(self, size: npt.ArrayLike) -> FloatArray:
        """Return the fitted score at sizes of the training set, which broadcast against the curves."""
        return np.asarray(self.limit - self.loss * (np.asarray(size) / self.largest) ** -self.exponent)

    def gain(self, factor: float) -> FloatArray:
        """Return the difference of the score at `factor` times the largest size to that at the largest size."""
        return np.asarray(self.loss * (1.0 - factor**-self.exponent))


def fit_power_law(sizes: npt.ArrayLike, scores: FloatArray) -> PowerLaw:
    """Fit inverse power laws by weighted least squares.

    The weight of a size is proportional to the size, because the variance due to the choice of the training cases is
    about inversely proportional to their number. For each exponent of a grid, limit and loss are a linear regression;
    the limit is at most 1. The exponent with the smallest sum of squares is taken.

    Args:
        sizes: Numbers of training cases. Shape (n_sizes,).
        scores: Scores of each curve. Shape (..., n_sizes).

    Raises:
        ValueError: If there are fewer than `FEWEST_SIZES` sizes.

    Source:
        Weighted inverse power law: Figueroa et al., "Predicting sample size required for classification performance",
        BMC Medical Informatics and Decision Making 12:8, 2012. The grid instead of an iterative fit is ours.
    """
    size = np.asarray(sizes, np.float64)
    if len(size) < FEWEST_SIZES:
        raise ValueError(f"`sizes` must have at least {FEWEST_SIZES} elements, but got {len(size)}.")
    weight = size / size.sum()
    falling = (size / size.max()) ** -_EXPONENTS[:, None]  # shape (n_exponents, n_sizes)
    centred = falling - (falling @ weight)[:, None]
    mean = scores @ weight
    loss = -((scores - mean[..., None]) * weight) @ centred.T / (centred**2 @ weight)
    limit = mean[..., None] + loss * (falling @ weight)
    bounded = ((HIGHEST_SCORE - scores) * weight) @ falling.T / (falling**2 @ weight)
    loss = np.where(limit > HIGHEST_SCORE, bounded, loss)
    limit = np.minimum(limit, HIGHEST_SCORE)
    fitted = limit[..., None] - loss[..., None] * falling
    squares = (scores[..., None, :] - fitted) ** 2 @ weight
    best = np.argmin(squares, axis=-1)[..., None]
    limit, loss = (np.take_along_axis(values, best, axis=-1)[..., 0] for values in (limit, loss))
    return PowerLaw(limit, loss, _EXPONENTS[best[..., 0]], float(size.max()))
