"""Comparison of many trials: correction for selection bias (BBC-CV), and the trials that are tied with the best one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bhsearch.errors import DataError
from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, interval
from bhsearch.evaluation.metrics import score
from bhsearch.evaluation.mixed_score import score_title
from bhsearch.evaluation.selection.mabt import BOUND_NOTE, MIXED_BOUND_NOTE, REPORTED_LEVEL, lower_bound
from bhsearch.evaluation.selection.proposal import proposed, spread_of_differences

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import FloatArray, Predictions
    from bhsearch.tasks.base import Task

CORRECTED_NOTE = (
    "The correction (BBC-CV) removes most of the optimism of having searched, not all: "
    "the sealed test is the unbiased number."
)
_EQUAL = 1e-9  # tolerance of scores: the last digits of sums of weights such as 1/7 depend on the order of rows
_SAME = ("label", "fold", "group", "stratum", "shifts", "shift_weight")
_NEAREST = 64  # trials that are compared at once, since their samples fit into the cache of a processor
_CLASSES = 32
_SAME_SPREAD = 1e-7  # standard deviation of a difference below which two trials are copies


@dataclass(frozen=True)
class CorrectedScore:
    """The score of the trial that a search proposes, corrected for selection bias.

    Attributes:
        raw: Score of the proposed trial without correction.
        score: Corrected score. In each bootstrap sample, a trial is selected on the drawn cases by the same rule and
            scored on the cases left out; this is the mean of these scores.
        low: Lower end of the 95 % confidence interval of `score`, from the bootstrap over groups of cases.
        high: Upper end of the 95 % confidence interval of `score`.
        bound: One-sided lower confidence bound of the proposed trial's expected score, from `mabt.lower_bound`; nan if
            every bootstrap sample lacks the score of at least one trial.
        n_trials: Number of trials that competed.
        n_groups: Number of groups of cases that were resampled.
        shift_weight: Weight of the shifts in the score (`--score-weight-shift`); 0 if the score is the AUC.
    """

    raw: float
    score: float
    low: float
    high: float
    bound: float
    n_trials: int
    n_groups: int
    shift_weight: float = 0.0

    @property
    def title(self) -> str:
        """Name of the score: AUC, or mixed score if shifts count in it."""
        return score_title(self.shift_weight)

    @property
    def bound_note(self) -> str:
        """What kind of bound `bound` is, and how often it holds."""
        return MIXED_BOUND_NOTE if self.shift_weight else BOUND_NOTE


def corrected_score(
    predictions: Sequence[Predictions],
    task: Task,
    n_draws: int = 1000,
    seed: int = 0,
    cost: Sequence[float] | None = None,
) -> CorrectedScore:
    """Return the score of the proposed trial, corrected by bootstrap bias-corrected cross-validation (BBC-CV).

    Each bootstrap sample draws groups of cases with replacement. The trial that `proposal.proposed` selects on the
    drawn groups is the winner. The corrected score of the bootstrap sample is the winner's score on the groups that
    were not sampled, or the mean over the winners if several trials have the same cost and score. A score is the mean
    of the task's metric over the folds that have both classes. A bootstrap sample is skipped if no fold has both
    classes among the groups that were not sampled.

    The interval is the percentile interval of the corrected scores over the bootstrap samples. It covers the variation
    over cases, including the selection of the winner, but not the variation of training. It is wider than necessary for
    a coverage of 95 %, since each bootstrap sample is scored on only about 37 % of the groups;
    `experiments/benchmarks/null_studies.py` measures by how much. The bound uses all groups of a bootstrap sample and
    is closer to the score.

    Some optimism remains, for two reasons. First, the sampler used the scores of all groups to choose parameters.
    Second, the sampled and the other groups are not independent: in cross-validation, the heads that predict the former
    were trained on the latter, and vice versa.

    Args:
        predictions: Out-of-fold predictions of every complete trial of the study and of the studies that it was
            initialised from, on the same images, folds and groups. Pruned and failed trials must not be included.
        task: Task that names the score.
        n_draws: Number of bootstrap samples, 1 or more.
        seed: Random seed of the bootstrap.
        cost: Cost of the deployed model of every trial, in any unit; nan or inf if unknown. None if no cost is known,
            in which case the trial with the best score is selected.

    Returns:
        The score of the proposed trial, its correction, the interval of the correction, and the lower bound.

    Raises:
        DataError: If there are no predictions, the images or folds differ between trials, or no bootstrap sample can be
            scored.

    Source:
        Tsamardinos, Greasidou and Borboudakis, "Bootstrapping the out-of-sample predictions for efficient and accurate
        cross-validation", Machine Learning 107, 2018 (BBC-CV). Three changes are ours: groups are drawn within strata
        instead of rows, AUCs are computed per fold, since each fold is predicted by another head, and the winner of a
        bootstrap sample is selected by the rule that proposes a trial instead of by the best score.
    """
    _check_same(predictions)
    draws = group_draws(predictions[0].group, predictions[0].stratum, n_draws, seed)
    both = np.concatenate([draws, draws == 0])
    samples = np.stack([bootstrap_scores(trial, both, task) for trial in predictions])
    inside, left_out = np.split(samples, 2, axis=1)
    prices = np.full(len(predictions), np.inf) if cost is None else np.asarray(cost, np.float64)
    spread = spread_of_differences(inside)
    outside = winner_scores(proposed(inside, spread, prices), left_out)
    if not np.isfinite(outside).any():
        raise DataError(
            f"There are too few cases for the bootstrap bias correction: in none of {n_draws} bootstrap samples of "
            f"{draws.shape[1]} groups do the left-out groups have both classes in a fold. Add cases of the rarer "
            "class."
        )
    low, high = interval(outside)
    scores = np.array([score(trial, task) for trial in predictions])
    winner = proposed(scores[:, None], spread, prices)[:, 0]
    bounded = np.isfinite(inside).all(axis=0).any()
    return CorrectedScore(
        raw=float(scores[winner].max()),
        score=float(np.nanmean(outside)),
        low=low,
        high=high,
        bound=lower_bound(predictions, scores, inside, draws, REPORTED_LEVEL, winner) if bounded else float("nan"),
        n_trials=len(predictions),
        n_groups=draws.shape[1],
        shift_weight=predictions[0].shift_weight,
    )


def winner_scores(winners: npt.NDArray[np.bool_], left_out: FloatArray) -> FloatArray:
    """Return the out-of-bag score of the winner of each bootstrap sample.

    Args:
        winners: Trials that were selected on the drawn groups of each bootstrap sample. Shape (n_trials, n_draws).
        left_out: Score of each trial on the left-out groups; nan if undefined. Shape (n_trials, n_draws).

    Returns:
        One score per bootstrap sample, the mean over its winners; nan if there is no winner or if the score of a winner
        is undefined. Shape (n_draws,).
    """
    n_winners = winners.sum(axis=0)
    total = np.where(winners, left_out, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, n_winners, out=np.full(len(total), np.nan), where=n_winners > 0))


def _check_same(predictions: Sequence[Predictions]) -> None:
    if not predictions:
        raise DataError(
            "The bootstrap bias correction requires the predictions of at least one complete trial, but got none."
        )
    first = predictions[0]
    for number, trial in enumerate(predictions):
        differing = [name for name in _SAME if not np.array_equal(getattr(trial, name), getattr(first, name))]
        if differing:
            raise DataError(
                f"All trials must have the same images, folds and shifts, but the trial at index {number} differs from "
                f"the first in: {', '.join(differing)}."
            )


def tied_with_best(scores: FloatArray, samples: FloatArray, level: float = 0.95) -> npt.NDArray[np.bool_]:
    """Return which trials cannot be distinguished from the best trial.

    Each trial is compared with all other trials simultaneously. Each gap between two trials is divided by its bootstrap
    standard deviation, so that noisy trials do not dominate the comparison. A trial is tied with the best if the
    largest standardised gap to another trial is at most the `level` quantile of the largest gap by chance, which is
    estimated from paired bootstrap samples centred at the observed gaps. The truly best trial is marked with a
    probability of at least `level` for any number of trials. A noisy trial can be tied even if a more precise trial
    with a higher score is not.

    Args:
        scores: Score of every trial. Shape (n_trials,).
        samples: Bootstrap scores of every trial, from the same bootstrap samples. Shape (n_trials, n_draws).
        level: Simultaneous confidence level, between 0 and 1.

    Returns:
        Mask of the tied trials; always True for trials with the best score. Shape (n_trials,).

    Raises:
        DataError: If there is no trial, a score is nan or infinite, the shapes disagree, or every bootstrap
            sample lacks the score of at least one trial.

    Source:
        Multiple comparisons with the best (Hsu, "Simultaneous confidence intervals for all distances from the best",
        Annals of Statistics 9, 1981), with each trial in turn as the control; bootstrap of the studentised maximum
        (Romano and Wolf, "Exact and approximate stepdown methods for multiple hypothesis testing", JASA 100, 2005).
    """
    if scores.ndim != 1 or not len(scores) or samples.ndim != 2 or len(samples) != len(scores):
        raise DataError(
            f"`scores` and `samples` must have the same number of trials, but got shapes {scores.shape} and "
            f"{samples.shape}."
        )
    if not np.isfinite(scores).all():
        raise DataError(
            f"All scores must be finite, but got {scores[~np.isfinite(scores)][0]}. Leave out failed trials."
        )
    whole = samples[:, np.isfinite(samples).all(axis=0)]
    if not whole.shape[1]:
        raise DataError(
            f"There are too few cases to compare trials: in each of {samples.shape[1]} bootstrap samples, the score of "
            "at least one trial is undefined. Add cases of the rarer class."
        )
    errors = whole - scores[:, None]
    centred = errors - errors.mean(axis=1, keepdims=True)
    variance = np.einsum("td,td->t", centred, centred) / centred.shape[1]
    by_chance = errors.astype(np.float32)  # three times as fast as float64, and precise enough for a quantile
    # Trials whose scores vary equally, which bound what chance can do; see `_may_be_best`.
    classes = np.array_split(np.argsort(variance), min(_CLASSES, len(scores)))
    highest = np.stack([by_chance[members].max(axis=0) for members in classes])
    tied = []
    for top in range(0, len(scores), _NEAREST):
        covariance = centred[top : top + _NEAREST] @ centred.T / centred.shape[1]
        for trial, row in enumerate(covariance, start=top):
            spread = np.sqrt(np.maximum(variance + variance[trial] - 2 * row, 0.0))
            tied.append(_may_be_best(scores - scores[trial], by_chance, trial, spread, level, classes, highest))
    return np.array(tied)


def _may_be_best(
    gap: FloatArray,
    by_chance: npt.NDArray[np.float32],
    trial: int,
    spread: FloatArray,
    level: float,
    classes: Sequence[npt.NDArray[np.intp]],
    highest: npt.NDArray[np.float32],
) -> bool:
    """Return whether the leads of all other trials over one trial can be explained by chance.

    The largest lead by chance is computed over the trials that differ least from the given one, which decides most
    cases: the largest lead over all trials is at least as large, and at most as large as that over the classes, if the
    highest sample of a class led by its smallest standard deviation. Only otherwise are more trials computed.

    Args:
        gap: Score of every trial minus the score of the given trial. Shape (n_trials,).
        by_chance: Bootstrap samples minus scores. Shape (n_trials, n_draws).
        trial: Number of the given trial.
        spread: Standard deviation of every gap. Shape (n_trials,).
        level: Simultaneous confidence level, between 0 and 1.
        classes: Numbers of the trials in each class. All trials are in one class.
        highest: Maximum of `by_chance` over each class. Shape (n_classes, n_draws).
    """
    copies = spread <= _SAME_SPREAD  # trials whose gap does not vary, including the given trial
    if (gap[copies] > _EQUAL).any():
        return False
    largest = (gap[~copies] / spread[~copies]).max(initial=0.0)
    if largest <= 0:
        return True
    left, own = spread.astype(np.float32), by_chance[trial]
    left[copies] = np.inf
    order = np.argsort(left)[: len(left) - int(copies.sum())]
    leads, n_done = np.zeros(len(own), np.float32), 0
    while n_done < len(order):
        n_next = min(4 * n_done or _NEAREST, len(order))
        for start in range(n_done, n_next, _NEAREST):
            block = order[start : min(start + _NEAREST, n_next)]
            np.maximum(leads, ((by_chance[block] - own) / left[block, None]).max(axis=0), out=leads)
            left[block] = np.inf
        n_done = n_next
        if largest <= np.quantile(leads, level):
            return True
        if n_done < len(order):
            smallest = np.array([left[members].min() for members in classes], np.float32)
            bounds = np.maximum((highest - own) / smallest[:, None], 0.0).max(axis=0)
            if largest > np.quantile(np.maximum(leads, bounds), level):
                return False
    return False
