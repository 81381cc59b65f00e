"""Read studies from the MLflow store, with their trials, predictions, models, pictures and tests."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from bhsearch.errors import MissingError, StudyError
from bhsearch.evaluation.mixed_score import score_title
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.robustness import Robustness
from bhsearch.evaluation.selection.nested import NestedScore
from bhsearch.runtime.store_schema import require_schema
from bhsearch.states import COMPLETE, FAILED, PRUNED, RUNNING
from bhsearch.tasks import Task, restore_task
from bhsearch.text import listed
from bhsearch.tracking import keys, model_files
from bhsearch.tracking.connection import deleted_experiment
from bhsearch.tracking.keys import (
    COST,
    MODEL,
    NO_TRIAL,
    OPENED,
    REASON,
    SEALED,
    STATE,
    STUDY,
    TRIAL,
    UID,
    config_of,
    score_of,
)
from bhsearch.tracking.requests import call_with_retry
from bhsearch.tracking.upload.model_retention import KEPT
from bhsearch.tracking.upload.writer import runs_of_trials

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Progress bars for small files would only clutter the output.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

_COSTS = (f"{COST}ms_per_image", f"{COST}model_mb")
_STATES = {"complete": COMPLETE, "pruned": PRUNED, "fail": FAILED}


@dataclass(frozen=True)
class StoredTrial:
    """A trial as stored on its MLflow run.

    Attributes:
        number: Number of the trial within its study.
        run_id: MLflow run of the trial.
        state: `COMPLETE`, `PRUNED`, `FAIL` or `RUNNING`.
        score: Mean over folds of the case-weighted AUC, or the mixed score; None unless the trial is complete.
        params: Parameters, as text.
        metrics: Last value of each metric.
        reason: Reason of a failure; empty if the trial did not fail.
        artifact_uri: URI of the artifact folder of the run.
        model_uri: URI of the model; empty if MLflow has no model of the trial.
        started_ms, ended_ms: Start and end in milliseconds since 1970; the end is None while the trial runs.
    """

    number: int
    run_id: str
    state: str
    score: float | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    reason: str
    artifact_uri: str
    model_uri: str
    started_ms: int = 0
    ended_ms: int | None = None

    @property
    def cost(self) -> tuple[float, float]:
        """Inference time in milliseconds per image, and size of the weights in megabytes; nan if unknown."""
        milliseconds, megabytes = (self.metrics.get(name, math.nan) for name in _COSTS)
        return milliseconds, megabytes


@dataclass(frozen=True)
class StoredTest:
    """An access to the sealed test as stored on its MLflow run.

    Attributes:
        run_id: MLflow run of the access.
        when: Time of the access, UTC, ISO 8601.
        metrics: Last value of each metric.
        params: Parameters of the trial, and the numbers that were fixed before the access, as text.
        tags: Tags of the run.
        artifact_uri: URI of the artifact folder of the run.
    """

    run_id: str
    when: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    artifact_uri: str

    @property
    def values(self) -> dict[str, float]:
        """Metrics of the test, such as `auc`, `auc_low` and `auc_high`; empty if the test failed."""
        return {
            name.removeprefix(keys.TEST): value for name, value in self.metrics.items() if name.startswith(keys.TEST)
        }

    @property
    def study(self) -> str:
        """Name of the study for which the test was opened."""
        return self.tags.get(STUDY, "")

    @property
    def trial(self) -> str:
        """Number of the tested trial, as text; `?` if unknown."""
        return self.tags.get(keys.OPENED_TRIAL, "?")


@dataclass(frozen=True)
class StoredStudy:
    """A study as stored on its parent run in MLflow.

    Attributes:
        name: Name of the study.
        uid: Identifier that distinguishes the study from others of the same name.
        run_id: Parent run of the study.
        experiment_id: Experiment of the data set.
        data: Name of the data set.
        root: Folder of the images at the start of the study.
        settings: Resolved settings, as text.
        tags: Tags of the parent run.
        metrics: Last value of each metric of the parent run.
        records: All trials, ordered by number.
        artifact_uri: URI of the artifact folder of the parent run.
        started_ms: Start in milliseconds since 1970.
    """

    name: str
    uid: str
    run_id: str
    experiment_id: str
    data: str
    root: str
    settings: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    records: tuple[StoredTrial, ...]
    artifact_uri: str
    started_ms: int = 0

    @cached_property
    def trials(self) -> tuple[StoredTrial, ...]:
        """Complete trials, best first; trials with equal scores are ordered by number."""
        complete = [trial for trial in self.records if trial.score is not None]
        return tuple(sorted(complete, key=lambda trial: (-(trial.score or 0.0), trial.number)))

    @property
    def synthetic(self) -> bool:
        """Whether the images are synthetic instead of photographs of tissue."""
        return self.tags.get(keys.SYNTHETIC) == "True"

    @property
    def shift_weight(self) -> float:
        """Weight of the shifts in the score (`--score-weight-shift`); studies of earlier versions have none."""
        return float(self.settings.get("score_weight_shift", 0.0))

    @property
    def score_title(self) -> str:
        """Name of the score: AUC, or mixed score if shifts count in it."""
        return score_title(self.shift_weight)

    @cached_property
    def task(self) -> Task:
        """Task of the study."""
        text = self.tags.get(keys.TASK)
        return restore_task(json.loads(text) if text is not None else None)


def find_study(client: MlflowClient, name: str | None = None) -> StoredStudy:
    """Return the study with a name, uid or parent run; if None is given, the only study of the store.

    Raises:
        MissingError: If no study matches; the message lists the studies of the store.
        StudyError: If several studies match, or if the only match is in a deleted experiment.
        RunError: If the store stays unavailable.
    """
    runs = _parents(client, name)
    fitting = [run for run in runs if name is None or _fits(run, name)]
    if len(fitting) != 1:
        known = [f"{run.data.tags[STUDY]}  (uid {run.data.tags[UID]})" for run in fitting or runs]
        if name is None:
            got = "Several studies are possible"
        else:
            got = f"{len(fitting)} studies match {name!r}" if fitting else f"No study matches {name!r}"
        raise (StudyError if fitting else MissingError)(
            f"{got}; the MLflow store has:\n{listed(known)}\nChoose one with --study NAME, or --study UID if several "
            "studies have the same name."
        )
    return read_study(client, fitting[0])


def latest_study(client: MlflowClient) -> StoredStudy:
    """Return the most recently started study.

    Raises:
        MissingError: If the store has no study.
        StudyError: If the store has studies only in deleted experiments.
        RunError: If the store stays unavailable.
    """
    return read_study(client, max(_parents(client, None), key=lambda run: run.info.start_time))


def _parents(client: MlflowClient, name: str | None) -> list[Any]:
    """Return the parent runs of all studies.

    Raises:
        MissingError: If the store has no study.
        StudyError: If the studies that match `name` are only in a deleted experiment.
    """
    query = f"tags.`{TRIAL}` = '{NO_TRIAL}'"
    runs = list(search_all(client, query))
    if not runs or (name is not None and not any(_fits(run, name) for run in runs)):
        deleted = call_with_retry(lambda: list(client.search_experiments(view_type=ViewType.DELETED_ONLY)))
        for experiment in deleted:
            found = _runs_of(client, [str(experiment.experiment_id)], query, ViewType.ALL)
            if any(name is None or _fits(run, name) for run in found):
                raise deleted_experiment(experiment.name, str(experiment.experiment_id))
    if not runs:
        raise MissingError(
            "The MLflow store contains no study. Use the working directory in which the study was run, set "
            "MLFLOW_TRACKING_URI, or run a study with `python -m bhsearch.run`."
        )
    return runs


def _fits(run: Any, name: str) -> bool:
    return name in (run.data.tags[STUDY], run.data.tags[UID], run.info.run_id)


def study_of(client: MlflowClient, run_id: str) -> tuple[StoredStudy, StoredTrial]:
    """Return the complete trial of a run, and the study that the trial belongs to.

    Raises:
        MissingError: If the store does not have the run.
        StudyError: If the run is not the run of a complete trial.
        RunError: If the store stays unavailable.
    """
    try:
        run = call_with_retry(client.get_run, run_id)
    except MissingError as error:
        raise MissingError(f"The MLflow store has no run {run_id!r}. Check RUN_ID.") from error
    parent = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
    if parent is None or not run.data.tags.get(TRIAL, "").isdigit():
        raise StudyError(f"RUN_ID must be the run of a trial, but {run_id!r} ({run.info.run_name}) is not.")
    study = read_study(client, call_with_retry(client.get_run, parent))
    for trial in study.trials:
        if trial.run_id == run_id:
            return study, trial
    raise StudyError(
        f"RUN_ID must be the run of a complete trial, but the status of {run.info.run_name} is {run.info.status}."
    )


def read_study(client: MlflowClient, run: Any) -> StoredStudy:
    """Return the study of a parent run, which is given as an MLflow entity.

    Raises:
        StudyError: If the schema of the run is not the current one.
        RunError: If the store stays unavailable.
    """
    tags = run.data.tags
    require_schema(tags.get(keys.SCHEMA), f"The study {tags[STUDY]!r} in MLflow")
    found = call_with_retry(runs_of_trials, client, run.info.experiment_id, tags[UID])
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return StoredStudy(
        name=tags[STUDY],
        uid=tags[UID],
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        data=call_with_retry(client.get_experiment, run.info.experiment_id).name,
        root=next((json.loads(item.dataset.source).get("uri", "") for item in inputs), ""),
        settings=config_of(run.data.params),
        tags=dict(tags),
        metrics=dict(run.data.metrics),
        records=tuple(_trial(number, found[number]) for number in sorted(found)),
        artifact_uri=run.info.artifact_uri,
        started_ms=run.info.start_time,
    )


def _trial(number: int, run: Any) -> StoredTrial:
    tags, metrics = run.data.tags, dict(run.data.metrics)
    state = RUNNING if run.info.status == "RUNNING" else _STATES.get(tags.get(STATE, ""), FAILED)
    models = run.outputs.model_outputs if run.outputs else []
    return StoredTrial(
        number=number,
        run_id=run.info.run_id,
        state=state,
        score=score_of(metrics) if state == COMPLETE else None,
        params=dict(run.data.params),
        metrics=metrics,
        reason=tags.get(REASON, ""),
        artifact_uri=run.info.artifact_uri,
        model_uri=f"models:/{models[0].model_id}" if models and tags.get(MODEL, KEPT) == KEPT else "",
        started_ms=run.info.start_time,
        ended_ms=run.info.end_time,
    )


def tests_of_study(client: MlflowClient, study: StoredStudy) -> list[StoredTest]:
    """Return the accesses to the sealed test that were made for a study, oldest first."""
    query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{study.run_id}' and tags.`{OPENED}` != 'none'"
    return _tests(search_all(client, query))


def tests_on(client: MlflowClient, sealed: str) -> list[StoredTest]:
    """Return the accesses to a held-out test set, made for any study, oldest first; deleted runs are included.

    Args:
        client: Client of the MLflow store.
        sealed: Digest that identifies the images of the held-out test set.
    """
    return _tests(search_all(client, f"tags.`{SEALED}` = '{sealed}' and tags.`{OPENED}` != 'none'", ViewType.ALL))


def _tests(runs: Iterable[Any]) -> list[StoredTest]:
    tests = [
        StoredTest(
            run.info.run_id,
            run.data.tags[OPENED],
            dict(run.data.metrics),
            dict(run.data.params),
            dict(run.data.tags),
            run.info.artifact_uri,
        )
        for run in runs
    ]
    return sorted(tests, key=lambda test: (test.when, test.run_id))


def tested_predictions(test: StoredTest) -> Predictions | None:
    """Return the calibrated predictions of the images of the held-out test set; None if the run has no predictions."""
    with suppress(MissingError):
        return _read_predictions(test, keys.TEST_PREDICTIONS)
    return None


def read_record(study: StoredStudy, path: str) -> Any:
    """Return the parsed content of a JSON artifact of a study's run, such as `keys.SPLIT`.

    Raises:
        MissingError: If the run does not have the artifact.
        RunError: If the store stays unavailable.
    """
    try:
        return json.loads(read_bytes(study, path))
    except MissingError as error:
        raise MissingError(f"The MLflow run of the study {study.name!r} has no artifact {path}.") from error


def robustness_of(study: StoredStudy) -> dict[int, Robustness]:
    """Return the robustness of the best trials of a study by trial number; empty if it was not computed."""
    with suppress(MissingError):
        record = read_record(study, keys.ROBUSTNESS_RECORD)
        return {int(number): Robustness.from_record(row) for number, row in record.items()}
    return {}


def nested_of(study: StoredStudy) -> NestedScore | None:
    """Return the score of the nested search of a study; None if it was not computed."""
    with suppress(MissingError):
        return NestedScore(**read_record(study, keys.NESTED_RECORD))
    return None


def predictions_of(trial: StoredTrial) -> Predictions:
    """Return the out-of-fold predictions of a complete trial."""
    return _read_predictions(trial, keys.PREDICTIONS)


def race_of(study: StoredStudy) -> dict[int, Predictions]:
    """Return the predictions of the trials that were raced, on all divisions, by number; empty without a race."""
    try:
        numbers = read_record(study, keys.TRIALS).get("race", [])  # absent in studies of earlier versions
    except MissingError:  # no session of the search has ended
        return {}
    return {number: _read_predictions(study, keys.race_file(number)) for number in numbers}


def _read_predictions(owner: StoredStudy | StoredTrial | StoredTest, path: str) -> Predictions:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "predictions.csv"
        file.write_bytes(read_bytes(owner, path))
        return Predictions.from_csv(file)


def read_bytes(owner: StoredStudy | StoredTrial | StoredTest, path: str) -> bytes:
    """Return the content of an artifact of a study, trial or test.

    Raises:
        MissingError: If the run does not have the artifact.
        RunError: If the store stays unavailable.
    """
    return model_files.read_bytes(owner.artifact_uri, path)


def picture(trial: StoredTrial, name: str) -> bytes:
    """Return a picture of a trial, such as `roc`, as an SVG file; empty bytes if the run does not have the picture.

    Runs that were logged before pictures were SVG have PNG files.
    """
    for suffix in (keys.PICTURE_SUFFIX, keys.EARLIER_PICTURE_SUFFIX):
        with suppress(MissingError):
            return read_bytes(trial, f"{keys.PICTURES}/{name}{suffix}")
    return b""


def model_folder(study: StoredStudy, trial: StoredTrial) -> Path:
    """Return the local folder of a trial's MLflow model, which is a temporary copy if the store is remote.

    Raises:
        MissingError: If the store does not have the model.
        RunError: If the store stays unavailable.
    """
    try:
        if trial.model_uri:
            return model_files.download(trial.model_uri)
        reason = "the model was not kept (--keep-models)"
    except MissingError as error:
        reason = str(error.__cause__)
    raise MissingError(
        f"MLflow has no model of trial {trial.number} of {study.name!r}: {reason}. Choose another trial with --trial."
    )


def search_all(client: MlflowClient, query: str, view: int = ViewType.ACTIVE_ONLY) -> list[Any]:
    """Return all runs of all experiments that match a query.

    Raises:
        StudyError: If the store refuses the request.
        RunError: If the store stays unavailable.
    """
    experiments = call_with_retry(lambda: _pages(client.search_experiments, view_type=view))
    return _runs_of(client, [str(experiment.experiment_id) for experiment in experiments], query, view)


def _runs_of(client: MlflowClient, experiments: list[str], query: str, view: int) -> list[Any]:
    if not experiments:
        return []
    search = partial(client.search_runs, experiments, query, run_view_type=view, max_results=1000)
    return call_with_retry(_pages, search)


def _pages(search: Callable[..., Any], **options: Any) -> list[Any]:
    """Return the results of all pages of a search, as one list."""
    found: list[Any] = []
    token = None
    while True:
        page = search(page_token=token, **options)
        found += page
        token = page.token
        if not token:
            return found


def log_report(client: MlflowClient, study: StoredStudy, page: str, checklist: str) -> None:
    """Log a report page and its checklists as artifacts of the study's run, replacing any earlier ones."""
    call_with_retry(client.log_text, study.run_id, page, keys.REPORT)
    call_with_retry(client.log_text, study.run_id, checklist, keys.CHECKLIST)


def log_learning_curve(
    client: MlflowClient, study: StoredStudy, record: Mapping[str, Any], values: Mapping[str, float]
) -> None:
    """Log the learning curve of a trial on the study's run, replacing any earlier curve.

    Args:
        client: Client of the MLflow store.
        study: The study.
        record: JSON-able record of the curve.
        values: Metrics without their prefix, by name.
    """
    call_with_retry(client.log_dict, study.run_id, dict(record), keys.LEARNING_CURVE_RECORD)
    for name, value in values.items():
        call_with_retry(client.log_metric, study.run_id, f"{keys.LEARNING_CURVE}{name}", value)
