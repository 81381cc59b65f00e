"""Ranking of the trials of a study with intervals, ties and the proposed trial, and the corrected score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bhsearch.engines.base import Trial
from bhsearch.errors import DataError
from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, interval
from bhsearch.evaluation.metrics import clean_score
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.selection.bbc_cv import CorrectedScore, corrected_score, tied_with_best
from bhsearch.states import COMPLETE
from bhsearch.study.outcome.selection import (
    RankedTrial,
    best_first,
    contenders,
    prediction_costs,
    propose,
    race_result,
)
from bhsearch.tasks import Task
from bhsearch.text import plural

N_DRAWS = 1000


def rank(
    records: Sequence[Trial],
    predictions: Mapping[int, Predictions],
    task: Task,
    raced: Mapping[int, Predictions] | None = None,
) -> list[RankedTrial]:
    """Return the complete trials ranked by score, with their intervals, their ties with the best and the proposed one.

    Args:
        records: All trials.
        predictions: Out-of-fold predictions by trial number. A trial without predictions has no interval, is not tied
            and is not proposed; without predictions of the best trial, no trial is tied and the best trial is proposed.
            Predictions of trials more than `MARGIN` below the best do not influence which trial is proposed.
        task: Task that names the score.
        raced: Out-of-fold predictions on all divisions of a race, by trial number. If they are those of the
            `contenders`, the rule is applied to their scores over all divisions, and no other trial is proposed.
            Otherwise the race was held among other trials and does not count.
    """
    complete = best_first(records)
    known = [trial for trial in complete if trial.number in predictions]
    samples: dict[int, np.ndarray] = {}
    if known:
        first = predictions[known[0].number]
        draws = group_draws(first.group, first.stratum, N_DRAWS)
        samples = {trial.number: bootstrap_scores(predictions[trial.number], draws, task) for trial in known}
    tied: set[int] = set()
    costs = dict(zip((trial.number for trial in complete), prediction_costs(complete).tolist(), strict=True))
    chosen = complete[0].number if complete else None
    if known and known[0] is complete[0]:
        scores = {trial.number: trial.value or 0.0 for trial in known}
        marks = tied_with_best(np.array(list(scores.values())), np.stack([samples[number] for number in scores]))
        tied = {number for number, mark in zip(scores, marks, strict=True) if mark}
        chosen = propose(scores, samples, costs)
    race: dict[int, float] = {}
    if raced and set(raced) == {trial.number for trial in contenders(complete)}:
        race, chosen = race_result(raced, costs, task)
    ranking = []
    for trial in complete:
        number = trial.number
        low, high = interval(samples[number]) if number in samples else (np.nan, np.nan)
        auc = clean_score(predictions[number], task) if number in predictions else np.nan
        raced_score = race.get(number, np.nan)
        ranking.append(RankedTrial(trial, low, high, number in tied, number == chosen, costs[number], raced_score, auc))
    return ranking


def correct(
    records: Sequence[Trial],
    predictions: Mapping[int, Predictions],
    task: Task,
    earlier: Sequence[Predictions] = (),
    n_earlier: int = 0,
) -> tuple[CorrectedScore | None, str]:
    """Return the score of the proposed trial corrected for the optimism of selecting one of many trials (BBC-CV).

    All predictions are required, because a correction over some of the trials would be too small. A race is not part of
    the correction, whose bootstrap samples use the division of the search for all trials.

    Args:
        records: All trials; the correction is over the complete ones.
        predictions: Out-of-fold predictions by trial number.
        task: Task that names the score.
        earlier: Out-of-fold predictions of the study that this study was started from. They compete at an unknown cost.
        n_earlier: Minimum number of predictions that `earlier` must contain.

    Returns:
        The corrected score and an empty string, or None and the reason why it is not available.
    """
    complete = [trial for trial in records if trial.state == COMPLETE]
    lost = sum(trial.number not in predictions for trial in complete)
    if lost:
        return None, f"the predictions of {lost} of {plural(len(complete), 'complete trial')} are not available"
    if not complete:
        return None, "no trial is complete"
    if len(earlier) < n_earlier:
        return None, (
            f"the predictions of {n_earlier - len(earlier)} of the {n_earlier} trials that it was started from are not "
            "available"
        )
    competitors = [*(predictions[trial.number] for trial in complete), *earlier]
    cost = [*prediction_costs(complete), *(np.inf for _ in earlier)]
    try:
        return corrected_score(competitors, task, N_DRAWS, cost=cost), ""
    except DataError as error:
        return None, str(error).rstrip(".")
