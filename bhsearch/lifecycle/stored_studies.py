"""List the studies of the MLflow store, and load one as the result that `optimize` returned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bhsearch.engines.base import Trial
from bhsearch.lifecycle.ranking import rank_stored
from bhsearch.study.context import SYNTHETIC
from bhsearch.study.events import ProgressReporter
from bhsearch.study.outcome.result import StudyResult
from bhsearch.study.startup import open_mlflow
from bhsearch.tracking import keys, links
from bhsearch.tracking.connection import require_store

if TYPE_CHECKING:
    from bhsearch.tracking.reader import StoredTrial
    from bhsearch.tracking.study_list import StudySummary


def list_studies(reporter: ProgressReporter) -> list[StudySummary]:
    """Return the studies of the MLflow store, most recently started first.

    Args:
        reporter: Receives progress events.

    Raises:
        StudyError: If there is no store, or if the store refuses the request.
        RunError: If the store cannot be reached.
    """
    require_store()
    client = open_mlflow(reporter)
    from bhsearch.tracking import study_list

    with reporter.step("reading studies"):
        return study_list.list_studies(client)


def load_study(name: str | None, reporter: ProgressReporter) -> StudyResult:
    """Return the result of a study from the MLflow store, with the same ranking as when the study ended.

    Args:
        name: Name, uid or run of the study; None for the most recently started study.
        reporter: Receives progress events.

    Raises:
        StudyError: If the study does not exist, or if the store cannot be opened.
        RunError: If the store cannot be reached.
    """
    require_store()
    client = open_mlflow(reporter)
    from bhsearch.tracking import reader

    study = reader.latest_study(client) if name is None else reader.find_study(client, name)
    found = rank_stored(client, study, reporter)
    records, chosen = [_with_notes(*pair) for pair in zip(found.records, study.records, strict=True)], found.proposed
    split = reader.read_record(study, keys.SPLIT)
    return StudyResult(
        study=study.name,
        data=study.data,
        ranking=found.ranking,
        records=records,
        # MLflow stores the number of trials of the first command; later commands may have run more.
        wanted=max(int(study.settings.get("trials", 0)), sum(trial.counts for trial in records)),
        note=SYNTHETIC if study.synthetic else "",
        invalid=split["leaks"],
        corrected=found.corrected,
        uncorrected=found.uncorrected,
        links=(links.trials_url(study.experiment_id), links.parallel_url(study.experiment_id)),
        proposed_predictions=None if chosen is None else found.predictions[chosen.trial.number],
        default=found.default,
        robustness=reader.robustness_of(study),
        shift_weight=study.shift_weight,
    )


def _with_notes(record: Trial, trial: StoredTrial) -> Trial:
    """Add the MLflow run and the duration in seconds to the notes of a trial, and return the trial."""
    record.notes["mlflow_run"] = trial.run_id
    if keys.SECONDS in trial.metrics:
        record.notes["seconds"] = trial.metrics[keys.SECONDS]
    return record
