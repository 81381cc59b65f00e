"""The correction for having searched: what the best of many trials is worth on cases that did not choose it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhsearch.errors import DataError
from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, interval
from bhsearch.evaluation.metrics import score

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import Predictions

CORRECTED_NOTE = (
    "The correction (BBC-CV) removes most of the optimism of having searched, not all: "
    "the sealed test is the unbiased number."
)
_EQUAL = 1e-9  # sums of weights such as 1/7 differ in their last digits when rows are in another order
_SAME = ("label", "fold", "group", "stratum")


@dataclass(frozen=True)
class CorrectedScore:
    """The score of the winner of a search, corrected for having been chosen by it.

    Attributes:
        raw: The best score, as it was found.
        score: Mean score of the winners on cases that did not choose them.
        low: Lower end of the 95 % interval of `score` over cases.
        high: Upper end.
        n_trials: Trials that competed.
        n_groups: Groups of cases that were resampled.
    """

    raw: float
    score: float
    low: float
    high: float
    n_trials: int
    n_groups: int


def corrected_score(predictions: Sequence[Predictions], n_draws: int = 1000, seed: int = 0) -> CorrectedScore:
    """Let resampled cases choose the winner, and the cases they left out score it.

    A draw takes groups with replacement. The trial with the best score on them is the draw's winner, and its score is
    that on the groups which were not drawn; trials that are equally good share the win. Each fold's AUC comes from
    that fold's own predictions, averaged over the folds that hold both classes; a draw whose left-out groups hold both
    classes in no fold is left out.

    The interval is that of the winners' scores over the draws: over cases, the choice of the winner included. A draw
    scores on about 37 % of the groups, which spread more than all of them would: the interval is wider than 95 % need
    (`experiments/benchmarks/null_studies.py` measures by how much). Not in it is the variation of training.

    Some optimism stays. The sampler saw scores of all groups when it chose what to try next; and heads that predict
    the left-out groups were trained on those that choose, and the other way round, so both share some luck.

    Args:
        predictions: Out-of-fold predictions of every complete trial, of the study and of those it was started from:
            all on the same images, folds and groups. Pruned and failed trials do not compete.
        n_draws: Number of draws, 1 or more.
        seed: Of the draws.

    Returns:
        The best score, its correction, and the interval of that.

    Raises:
        DataError: If there are no predictions, they are not of the same images and folds, or no draw can be scored.

    Source:
        Tsamardinos, Greasidou and Borboudakis, "Bootstrapping the out-of-sample predictions for efficient and accurate
        cross-validation", Machine Learning 107, 2018 (BBC-CV). That groups are drawn within strata instead of rows,
        and AUCs taken per fold, is ours: predictions of different folds come from different heads.
    """
    _check_same(predictions)
    draws = group_draws(predictions[0].group, predictions[0].stratum, n_draws, seed)
    both = np.concatenate([draws, draws == 0])
    samples = np.stack([bootstrap_scores(trial, both) for trial in predictions])
    inside, left_out = np.split(samples, 2, axis=1)
    # What is nan is so for all trials: whether a fold keeps both classes is a matter of the draw alone.
    wins = inside >= inside.max(axis=0) - _EQUAL
    outside = np.where(wins, left_out, 0.0).sum(axis=0) / np.maximum(wins.sum(axis=0), 1)
    outside[np.isnan(inside[0]) | np.isnan(left_out[0])] = np.nan
    if not np.isfinite(outside).any():
        raise DataError(
            f"the groups that a draw leaves out must hold both classes in a fold, but in none of {n_draws} draws of "
            f"{draws.shape[1]} groups do they. There are too few cases to correct for having searched."
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
        raise DataError("a correction needs the predictions of at least one complete trial, but got none.")
    first = predictions[0]
    for number, trial in enumerate(predictions):
        differing = [name for name in _SAME if not np.array_equal(getattr(trial, name), getattr(first, name))]
        if differing:
            raise DataError(
                f"all trials must be of the same images and folds, but number {number} has another "
                f"{' and '.join(differing)} than the first."
            )
