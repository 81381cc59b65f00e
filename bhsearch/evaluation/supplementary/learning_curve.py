"""Learning curve over cases: the out-of-fold score against the number of training cases, and its extrapolation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, interval, with_observed
from bhsearch.evaluation.predictions import FloatArray, Predictions
from bhsearch.evaluation.supplementary.power_law import fit_power_law
from bhsearch.tasks.base import Task

FACTOR = 2.0  # the curve is extrapolated to this multiple of the training cases
N_DRAWS = 1000
GROWS, FLAT, FALLS = "grows", "flat", "falls"
LEARNING_CURVE_NOTE = (
    "Heads trained on nested random subsets of each fold's training cases, scored on the same validation folds. "
    "Vertical lines: 95 % over cases and subsets. Line: inverse power law with its 95 % band, dashed where "
    "extrapolated. The parameters were chosen by the score of all cases, which is optimistic."
)


@dataclass(frozen=True)
class LearningCurve:
    """Score against the number of training cases, fitted by an inverse power law.

    Attributes:
        sizes: Number of training cases of a fold, mean over folds and subsets, in ascending order; the last size is
            that of the trial. Length n_sizes.
        scores: Score at each size, mean over subsets. Length n_sizes.
        low, high: 95 % interval of each score. Length n_sizes.
        n_subsets: Number of random subsets per size.
        n_cases: Number of development cases.
        grid: Sizes at which the fitted curve is given, from the smallest size to `FACTOR` times the largest.
        fitted: Fitted curve. Same length as `grid`.
        fitted_low, fitted_high: Pointwise 95 % band of the fitted curve. Same length as `grid`.
        gain: Fitted score at `FACTOR` times the largest size, minus the fitted score at the largest size.
        gain_low, gain_high: 95 % interval of the gain.
    """

    sizes: Sequence[float]
    scores: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    n_subsets: int
    n_cases: int
    grid: Sequence[float]
    fitted: Sequence[float]
    fitted_low: Sequence[float]
    fitted_high: Sequence[float]
    gain: float
    gain_low: float
    gain_high: float

    @property
    def predicted(self) -> tuple[float, float, float]:
        """Extrapolated score at `FACTOR` times the cases, with its 95 % interval."""
        return self.fitted[-1], self.fitted_low[-1], self.fitted_high[-1]

    @property
    def verdict(self) -> str:
        """`GROWS` or `FALLS` if the interval of the gain excludes 0, else `FLAT`."""
        return GROWS if self.gain_low > 0 else FALLS if self.gain_high < 0 else FLAT

    def sentence(self) -> str:
        """Return what the curve says about twice the cases, in one or two sentences."""
        value, low, high = self.predicted
        change = f"{self.gain:+.3f} [{self.gain_low:+.3f} {self.gain_high:+.3f}]"
        if self.verdict == GROWS:
            return (
                f"As many cases again ({2 * self.n_cases:,} instead of {self.n_cases:,}) would give an AUC of "
                f"{value:.3f} [{low:.3f} {high:.3f}], a change of {change}, if the curve continues as fitted."
            )
        if self.verdict == FLAT:
            return (
                f"The curve does not show that more cases would help: as many again would change the AUC by {change}, "
                "an interval that includes 0."
            )
        return (
            f"The AUC falls with the number of cases ({change} for as many again), so the curve says nothing about "
            "more cases."
        )

    def to_record(self) -> dict[str, Any]:
        """Return the curve as a JSON-able record."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> LearningCurve:
        """Restore the curve from a record of `to_record`."""
        return cls(**record)


def learning_curve(
    families: Sequence[Sequence[Predictions]], sizes: Sequence[Sequence[float]], task: Task, seed: int = 0
) -> LearningCurve:
    """Compute the learning curve and its extrapolation to `FACTOR` times the cases.

    A family is a chain of nested subsets. The interval comes from a bootstrap that draws validation cases, the same for
    all sizes, and families, and fits the curve to each sample. The variation due to the largest training set is not
    included, since there is only one.

    Args:
        families: Out-of-fold predictions of the same development images, in one repeat each, for each size of each
            family; the last ones use all training cases. Lengths n_families and n_sizes.
        sizes: Mean number of training cases per fold of each subset. Lengths n_families and n_sizes.
        task: Task that names the score.
        seed: Random seed.

    Raises:
        ValueError: If there are too few sizes to fit a curve.
    """
    first = families[0][0]
    draws, _ = with_observed(first.group, group_draws(first.group, first.stratum, N_DRAWS, seed))
    by_family = np.stack(
        [np.stack([bootstrap_scores(one, draws, task) for one in family], axis=1) for family in families], axis=2
    )  # shape (n_draws + 1, n_sizes, n_families)
    scores = by_family.mean(axis=2)
    random = np.random.default_rng(seed)
    drawn = random.integers(len(families), size=(N_DRAWS, 1, len(families)))
    samples = np.take_along_axis(by_family[1:], drawn, axis=2).mean(axis=2)
    samples = samples[np.isfinite(samples).all(axis=1)]
    x = np.mean(sizes, axis=0)
    grid = np.geomspace(x[0], FACTOR * x[-1], 41)
    observed, sampled = fit_power_law(x, scores[0]), fit_power_law(x, samples)
    curves = sampled.score(grid[:, None])
    ends, band = _ends(samples.T), _ends(curves)
    gain = interval(sampled.gain(FACTOR))
    return LearningCurve(
        sizes=x.tolist(),
        scores=scores[0].tolist(),
        low=ends[0].tolist(),
        high=ends[1].tolist(),
        n_subsets=len(families),
        n_cases=len(np.unique(first.group)),
        grid=grid.tolist(),
        fitted=observed.score(grid).tolist(),
        fitted_low=band[0].tolist(),
        fitted_high=band[1].tolist(),
        gain=float(observed.gain(FACTOR)),
        gain_low=gain.low,
        gain_high=gain.high,
    )


def _ends(samples: FloatArray) -> FloatArray:
    """Return the 95 % interval of each row of samples. Shape (2, n_rows)."""
    return np.asarray([interval(row) for row in samples]).T
