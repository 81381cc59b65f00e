"""Comparing many trials: the selection-bias correction (BBC-CV) and the trials tied with the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bhsearch.errors import DataError
from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, interval
from bhsearch.evaluation.metrics import score

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import FloatArray, Predictions

CORRECTED_NOTE = (
    "The correction (BBC-CV) removes most of the optimism of having searched, not all: "
    "the sealed test is the unbiased number."
)
_EQUAL = 1e-9  # sums of weights such as 1/7 differ in their last digits when rows are in another order
_SAME = ("label", "fold", "group", "stratum")
_SAME_SPREAD = 1e-7  # standard deviation of a difference below which two trials are copies


@dataclass(frozen=True)
class CorrectedScore:
    """The best score of a search, corrected for selection bias.

    Attributes:
        raw: The best score without correction.
        score: Mean score of the draws' winners on cases that were not used to select them.
        low: Lower end of the 95 % interval of `score` over cases.
        high: Upper end.
        n_trials: Number of trials that competed.
        n_groups: Number of groups of cases that were resampled.
    """

    raw: float
    score: float
    low: float
    high: float
    n_trials: int
    n_groups: int


def corrected_score(predictions: Sequence[Predictions], n_draws: int = 1000, seed: int = 0) -> CorrectedScore:
    """Return the best score, corrected for selection bias by bootstrap bias-corrected cross-validation (BBC-CV).

    A draw takes groups with replacement. The trial with the best score on them is the draw's winner, and the draw's
    corrected score is the winner's score on the groups that were not drawn; equally good trials share the win. Each
    fold's AUC comes from that fold's own predictions, averaged over the folds that have both classes; a draw whose
    left-out groups have both classes in no fold is left out.

    The interval is that of the winners' scores over the draws: it includes the selection of the winner, and it is over
    cases. A draw scores on about 37 % of the groups, which vary more than all of them would: the interval is wider
    than 95 % need (`experiments/benchmarks/null_studies.py` measures by how much). It does not include the variation
    of training.

    Some optimism stays. The sampler saw scores of all groups when it chose the next parameters; and heads that predict
    the left-out groups were trained on those that select, and the other way round, so both share some luck.

    Args:
        predictions: Out-of-fold predictions of every complete trial, of the study and of those it was started from:
            all on the same images, folds and groups. Pruned and failed trials do not compete.
        n_draws: Number of draws, 1 or more.
        seed: Random seed for the draws.

    Returns:
        The best score, its correction, and the interval of the correction.

    Raises:
        DataError: If there are no predictions, they are not of the same images and folds, or no draw can be scored.

    Source:
        Tsamardinos, Greasidou and Borboudakis, "Bootstrapping the out-of-sample predictions for efficient and accurate
        cross-validation", Machine Learning 107, 2018 (BBC-CV). Drawing groups within strata instead of rows, and AUCs
        per fold, is ours: predictions of different folds come from different heads.
    """
    _check_same(predictions)
    draws = group_draws(predictions[0].group, predictions[0].stratum, n_draws, seed)
    both = np.concatenate([draws, draws == 0])
    samples = np.stack([bootstrap_scores(trial, both) for trial in predictions])
    inside, left_out = np.split(samples, 2, axis=1)
    # A sample is nan for all trials or for no trial: whether a fold keeps both classes depends on the draw alone.
    wins = inside >= inside.max(axis=0) - _EQUAL
    outside = np.where(wins, left_out, 0.0).sum(axis=0) / np.maximum(wins.sum(axis=0), 1)
    outside[np.isnan(inside[0]) | np.isnan(left_out[0])] = np.nan
    if not np.isfinite(outside).any():
        raise DataError(
            f"The groups that a draw leaves out must have both classes in at least one fold, but they do in none of "
            f"{n_draws} draws of {draws.shape[1]} groups. There are too few cases to correct for having searched; add "
            "cases of the rarer class."
        )
    low, high = interval(outside)
    return CorrectedScore(
        raw=max(score(trial) for trial in predictions),
        score=float(np.nanmean(outside)),
        low=low,
        high=high,
        n_trials=len(predictions),
        n_groups=draws.shape[1],
    )


def _check_same(predictions: Sequence[Predictions]) -> None:
    if not predictions:
        raise DataError("A correction needs the predictions of at least one complete trial, but got none.")
    first = predictions[0]
    for number, trial in enumerate(predictions):
        differing = [name for name in _SAME if not np.array_equal(getattr(trial, name), getattr(first, name))]
        if differing:
            raise DataError(
                f"All trials must have the same images and folds, but number {number} has another "
                f"{' and '.join(differing)} than the first."
            )


def tied_with_best(scores: FloatArray, samples: FloatArray, level: float = 0.95) -> npt.NDArray[np.bool_]:
    """Mark the trials that cannot be distinguished from the best one.

    A trial is compared with all others at once. Its gap to each is divided by the bootstrap standard deviation of that
    gap, so that a noisy trial does not blur the comparison with a precise one. The trial is tied if its largest gap is
    at most the `level` quantile of the largest gap by chance, over paired resamples centred at the observed gaps. A
    trial that is truly the best is marked with probability `level` or more, however many trials it competes with. A
    noisy trial can be tied where a precise one with a higher score is not.

    Args:
        scores: Score of every trial. Shape (T,).
        samples: Bootstrap scores under the same draws. Shape (T, n_draws).
        level: Between 0 and 1.

    Returns:
        True where tied; always True for the best trial and its equals. Shape (T,).

    Raises:
        DataError: If there is no trial, a score is nan or infinite, the shapes disagree, or no draw has a score for
            every trial.

    Source:
        Multiple comparisons with the best (Hsu, "Simultaneous confidence intervals for all distances from the best",
        Annals of Statistics 9, 1981), each trial in turn as the control; studentised max-T by the bootstrap (Romano
        and Wolf, "Exact and approximate stepdown methods for multiple hypothesis testing", JASA 100, 2005).
    """
    if scores.ndim != 1 or not len(scores) or samples.ndim != 2 or len(samples) != len(scores):
        raise DataError(f"Every trial needs a score and samples, but got shapes {scores.shape} and {samples.shape}.")
    if not np.isfinite(scores).all():
        raise DataError(
            f"Every score must be a number, but got {scores[~np.isfinite(scores)][0]}. Leave out failed trials."
        )
    whole = samples[:, np.isfinite(samples).all(axis=0)]
    if not whole.shape[1]:
        raise DataError(
            f"At least one draw must have a score for every trial, but none of the {samples.shape[1]} draws has. There "
            "are too few cases to compare trials."
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
    """Return whether every other trial's lead over this one can be explained by chance.

    Args:
        gap: Score of every trial minus that of this one. Shape (T,).
        by_chance: Bootstrap samples minus scores. Shape (T, n_draws).
        trial: Number of this trial.
        spread: Standard deviation of every gap. Shape (T,).
        level: Between 0 and 1.
    """
    copies = spread <= _SAME_SPREAD  # includes the trial itself; their gaps do not vary
    if (gap[copies] > _EQUAL).any():
        return False
    if copies.all():
        return True
    others = ~copies
    largest = (gap[others] / spread[others]).max()
    chances = (by_chance[others] - by_chance[trial]) / spread[others, None].astype(np.float32)
    return bool(largest <= max(float(np.quantile(chances.max(axis=0), level)), 0.0))
