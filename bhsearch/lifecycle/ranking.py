"""Rank the trials of a stored study, with the same result as when the study ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bhsearch.engines.base import Trial
from bhsearch.errors import MissingError
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.selection.bbc_cv import CorrectedScore
from bhsearch.evaluation.selection.proposal import MARGIN
from bhsearch.lifecycle.restore import params_of, space_of
from bhsearch.objectives.base import MS_PER_IMAGE
from bhsearch.study.events import ProgressReporter
from bhsearch.study.outcome.ranking import correct, rank
from bhsearch.study.outcome.selection import (
    DefaultComparison,
    RankedTrial,
    compare_with_default,
    explanation,
    prediction_costs,
    proposed_of,
)
from bhsearch.tracking import keys

if TYPE_CHECKING:
    from bhsearch.objectives.space import Parameter
    from bhsearch.tracking.reader import StoredStudy, StoredTrial


@dataclass(frozen=True, eq=False)
class StoredRanking:
    """The ranking of a stored study.

    Attributes:
        records: All trials, ordered by number.
        ranking: Complete trials, best first.
        predictions: Out-of-fold predictions of the complete trials, by number.
        corrected: Score of the proposed trial, corrected for the search; None if not available.
        uncorrected: Reason why the corrected score is not available; empty if it is available.
        default: Difference between the proposed trial and the default parameters; None if not available.
    """

    records: list[Trial]
    ranking: list[RankedTrial]
    predictions: Mapping[int, Predictions]
    corrected: CorrectedScore | None
    uncorrected: str
    default: DefaultComparison | None

    @property
    def proposed(self) -> RankedTrial | None:
        """The proposed trial; None if no trial is complete."""
        return proposed_of(self.ranking)

    @property
    def explanation(self) -> list[str]:
        """Sentences: which trial is the best, which one is proposed and why, and what the search gained."""
        return explanation(self.ranking, self.default)


def rank_stored(client: Any, study: StoredStudy, reporter: ProgressReporter) -> StoredRanking:
    """Read the predictions of a stored study, and rank its trials.

    Args:
        client: Client of the MLflow store.
        study: The study as stored in MLflow.
        reporter: Receives progress events.
    """
    from bhsearch.tracking import reader

    space = space_of(study)
    predictions: dict[int, Predictions] = {}
    with reporter.step("reading predictions") as progress:
        for done, trial in enumerate(study.trials, start=1):
            first = next(iter(predictions.values()), None)
            predictions[trial.number] = reader.predictions_of(trial).sharing(first)
            progress(done, len(study.trials))
    records = [trial_record(trial, space) for trial in study.records]
    with reporter.step("comparing trials"):
        ranking = rank(records, predictions, study.task, reader.race_of(study))
        corrected, why_not = _corrected(client, study, records, predictions)
        default = compare_with_default(ranking, predictions, space, study.task)
    return StoredRanking(records, ranking, predictions, corrected, why_not, default)


def proposed_trial(study: StoredStudy) -> StoredTrial | None:
    """Return the trial that a stored study proposes; None if no trial is complete.

    Only the predictions of trials close to the best score and of raced trials are read, since the others cannot be
    proposed.
    """
    from bhsearch.tracking import reader

    near = [trial for trial in study.trials if (study.trials[0].score or 0.0) - (trial.score or 0.0) <= 2 * MARGIN]
    predictions = {trial.number: reader.predictions_of(trial) for trial in near} if len(near) > 1 else {}
    space = space_of(study)
    records = [trial_record(trial, space) for trial in study.records]
    chosen = proposed_of(rank(records, predictions, study.task, reader.race_of(study)))
    if chosen is None:
        return None
    return next(trial for trial in study.trials if trial.number == chosen.trial.number)


def costs_of(study: StoredStudy, trials: Sequence[StoredTrial]) -> list[float]:
    """Return the inference time of trials of a study in milliseconds per image, inf if unknown."""
    space = space_of(study)
    return [float(cost) for cost in prediction_costs([trial_record(trial, space) for trial in trials])]


def trial_record(trial: StoredTrial, space: Sequence[Parameter]) -> Trial:
    """Convert a stored trial to the `Trial` that an engine returns."""
    cost = {MS_PER_IMAGE: trial.cost[0]} if math.isfinite(trial.cost[0]) else {}
    return Trial(trial.number, trial.state, params_of(trial, space), trial.score, {"reason": trial.reason, **cost})


def _corrected(
    client: Any, study: StoredStudy, records: Sequence[Trial], predictions: Mapping[int, Predictions]
) -> tuple[CorrectedScore | None, str]:
    """Return the corrected score of a stored study, or None and the reason; see `correct`.

    If the study was started from an earlier study, the correction also counts the trials of the earlier study.
    """
    from bhsearch.tracking import reader

    origin = study.tags.get(keys.STARTED_FROM)
    if not origin:
        return correct(records, predictions, study.task)
    try:
        first = next(iter(predictions.values()), None)
        trials = reader.find_study(client, origin).trials
        earlier = [reader.predictions_of(trial).sharing(first) for trial in trials]
    except MissingError:
        return None, f"the study {origin!r}, which it was started from, is not available"
    return correct(records, predictions, study.task, earlier)
