"""A study read back from an MLflow store: what it was made with, its trials, their predictions, models and pictures."""

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
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.test_set import TEST
from bhsearch.states import COMPLETE, FAILED, PRUNED, RUNNING
from bhsearch.text import listed
from bhsearch.tracking import model_files
from bhsearch.tracking.connection import deleted_experiment
from bhsearch.tracking.keys import (
    AUC,
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
)
from bhsearch.tracking.requests import call_with_retry
from bhsearch.tracking.upload import artifacts
from bhsearch.tracking.upload.model_retention import KEPT
from bhsearch.tracking.upload.writer import runs_of_trials

if TYPE_CHECKING:
    from mlflow import MlflowClient

# A bar for each small file that is read back says nothing to anyone.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

REPORT = "report.html"
SPLIT, AUDIT, SPACE, VERSIONS, MADE, IMAGES, TRIALS = (
    "study/split.json",
    "study/audit.json",
    "study/space.json",
    "study/versions.json",
    "study/made.json",
    "study/images.json",
    "trials.json",
)
TEST_PREDICTIONS = "test_predictions.csv"  # of the sealed images, on the run of their test
_COSTS = (f"{COST}ms_per_image", f"{COST}model_mb")
_STATES = {"complete": COMPLETE, "pruned": PRUNED, "fail": FAILED}


@dataclass(frozen=True)
class StoredTrial:
    """A trial as its run holds it.

    Attributes:
        number: Within its study.
        run_id: Its run.
        state: `COMPLETE`, `PRUNED`, `FAIL` or `RUNNING`.
        score: Mean over folds of the case-weighted AUC; None unless complete.
        params: The point of the space, as text.
        metrics: The last value of each.
        reason: Why it failed; empty unless it did.
        artifact_uri: Where its files are.
        model_uri: Its model; empty where it has none.
        started_ms, ended_ms: Milliseconds since 1970; the second is None while it runs.
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
        """Milliseconds of the deployed network for an image, and megabytes of its weights; nan where unknown."""
        milliseconds, megabytes = (self.metrics.get(name, math.nan) for name in _COSTS)
        return milliseconds, megabytes


@dataclass(frozen=True)
class StoredTest:
    """One opening of the sealed test.

    Attributes:
        run_id: The run that holds what came of it.
        when: UTC, ISO 8601.
        metrics: The last value of each.
        params: The point of the space, and what was fixed before the opening, as text.
        tags: Of that run.
        artifact_uri: Where its files are.
    """

    run_id: str
    when: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    artifact_uri: str

    @property
    def values(self) -> dict[str, float]:
        """What the test gave, such as `auc`, `auc_low` and `auc_high`; empty where it failed before."""
        return {name.removeprefix(TEST): value for name, value in self.metrics.items() if name.startswith(TEST)}

    @property
    def study(self) -> str:
        """Name of the study that it was opened for."""
        return self.tags.get(STUDY, "")

    @property
    def trial(self) -> str:
        """Number of the trial that was tested."""
        return self.tags.get("bhsearch.opened_trial", "?")


@dataclass(frozen=True)
class StoredStudy:
    """A study as its parent run holds it.

    Attributes:
        name: As it was given, or made from data, regime, grouping and engine.
        uid: What tells it from other studies of that name.
        run_id: The parent run.
        experiment_id: Of the data set.
        data: Name of the data set.
        root: Folder of the images, as it was then.
        settings: As they were logged, resolved: text; empty where an earlier version of bhsearch made the study.
        tags: Of the parent run.
        metrics: Of the parent run.
        records: All trials, by number.
        artifact_uri: Where its files are.
        started_ms: When it was begun, in milliseconds since 1970.
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
        """Complete trials, best first; of equals the first."""
        complete = [trial for trial in self.records if trial.score is not None]
        return tuple(sorted(complete, key=lambda trial: (-(trial.score or 0.0), trial.number)))

    @property
    def synthetic(self) -> bool:
        """Whether its images were drawn by a program."""
        return self.tags.get("bhsearch.synthetic") == "True"


def find_study(client: MlflowClient, name: str | None = None) -> StoredStudy:
    """The study of a name, a uid or a parent run; where nothing is given, the only one.

    Raises:
        MissingError: If the store has none, or none that fits; those that it has are listed.
        StudyError: If several fit, or their experiment is deleted.
        RunError: If the store stays away.
    """
    runs = _parents(client, name)
    fitting = [run for run in runs if name is None or _fits(run, name)]
    if len(fitting) != 1:
        known = [f"{run.data.tags[STUDY]}  (uid {run.data.tags[UID]})" for run in fitting or runs]
        got = f"got {name!r}, and" if name is not None else "got none, and"
        found = f"{len(fitting)} fit" if fitting else "none fits"
        raise (StudyError if fitting else MissingError)(
            f"--study must name one study of this MLflow store, but {got} {found}:\n{listed(known)}\n"
            "Give a name, or a uid where names are the same."
        )
    return read_study(client, fitting[0])


def latest_study(client: MlflowClient) -> StoredStudy:
    """The study that was begun last.

    Raises:
        MissingError: If the store has none.
        StudyError: If the experiment of all that it had is deleted.
        RunError: If the store stays away.
    """
    return read_study(client, max(_parents(client, None), key=lambda run: run.info.start_time))


def _parents(client: MlflowClient, name: str | None) -> list[Any]:
    """Runs of all studies.

    Raises:
        StudyError: If there is none but in an experiment that was deleted, or none of this name.
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
            "There must be a study in this MLflow store, but there is none. Make one with `python -m bhsearch.run`, or "
            "go to the folder where it was made."
        )
    return runs


def _fits(run: Any, name: str) -> bool:
    return name in (run.data.tags[STUDY], run.data.tags[UID], run.info.run_id)


def study_of(client: MlflowClient, run_id: str) -> tuple[StoredStudy, StoredTrial]:
    """The study and the complete trial that a run is of.

    Raises:
        MissingError: If the store does not have the run.
        StudyError: If it is no run of a complete trial.
        RunError: If the store stays away.
    """
    try:
        run = call_with_retry(client.get_run, run_id)
    except MissingError as error:
        raise MissingError(f"RUN_ID must be a run of this MLflow store, but {run_id!r} is not in it.") from error
    parent = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
    if parent is None or not run.data.tags.get(TRIAL, "").isdigit():
        raise StudyError(f"RUN_ID must be the run of a trial, but {run_id!r} ({run.info.run_name}) is none.")
    study = read_study(client, call_with_retry(client.get_run, parent))
    for trial in study.trials:
        if trial.run_id == run_id:
            return study, trial
    raise StudyError(f"RUN_ID must be the run of a complete trial, but {run.info.run_name} ended as {run.info.status}.")


def read_study(client: MlflowClient, run: Any) -> StoredStudy:
    """The study of a parent run, an MLflow entity."""
    tags = run.data.tags
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
        score=metrics.get(AUC) if state == COMPLETE else None,
        params=dict(run.data.params),
        metrics=metrics,
        reason=tags.get(REASON, ""),
        artifact_uri=run.info.artifact_uri,
        model_uri=f"models:/{models[0].model_id}" if models and tags.get(MODEL, KEPT) == KEPT else "",
        started_ms=run.info.start_time,
        ended_ms=run.info.end_time,
    )


def tests_of_study(client: MlflowClient, study: StoredStudy) -> list[StoredTest]:
    """Openings of the sealed test for this study, first to last."""
    query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{study.run_id}' and tags.`{OPENED}` != 'none'"
    return _tests(search_all(client, query))


def tests_on(client: MlflowClient, sealed: str) -> list[StoredTest]:
    """Openings of a set of sealed images for whatever study, first to last, those whose run was deleted too.

    Args:
        client: Of the store.
        sealed: Digest of the set.
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
    """Calibrated predictions of the sealed images, as registering kept them; None where the run has none."""
    with suppress(MissingError), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / TEST_PREDICTIONS
        file.write_bytes(model_files.read_bytes(test.artifact_uri, TEST_PREDICTIONS))
        return Predictions.from_csv(file)
    return None


def read_record(study: StoredStudy, path: str) -> Any:
    """A JSON file of the study: `SPLIT`, `AUDIT`, `SPACE`, `VERSIONS`, or `TRIALS`, which is there once it has ended.

    Raises:
        MissingError: If it does not have it.
        RunError: If the store stays away.
    """
    try:
        return json.loads(read_bytes(study, path))
    except MissingError as error:
        raise MissingError(f"The study {study.name!r} must keep {path} in MLflow, but does not.") from error


def predictions_of(trial: StoredTrial) -> Predictions:
    """Out-of-fold predictions of a complete trial."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "predictions.csv"
        file.write_bytes(model_files.read_bytes(trial.artifact_uri, artifacts.PREDICTIONS))
        return Predictions.from_csv(file)


def read_bytes(owner: StoredStudy | StoredTrial | StoredTest, path: str) -> bytes:
    """An artifact of a run.

    Raises:
        MissingError: If the run does not have it.
        RunError: If the store stays away.
    """
    return model_files.read_bytes(owner.artifact_uri, path)


def picture(trial: StoredTrial, name: str) -> bytes:
    """A picture that was made when the trial ended, such as `roc`; empty where it is not kept."""
    try:
        return read_bytes(trial, f"pictures/{name}.png")
    except MissingError:
        return b""


def model_folder(study: StoredStudy, trial: StoredTrial) -> Path:
    """The folder of a trial's MLflow model; a copy where the store is on another machine.

    Raises:
        MissingError: If the store does not have it.
        RunError: If the store stays away.
    """
    try:
        if trial.model_uri:
            return model_files.download(trial.model_uri)
        reason = "it has none (--keep-models)"
    except MissingError as error:
        reason = str(error.__cause__)
    raise MissingError(
        f"A trial must have its model in MLflow, but of trial {trial.number} of {study.name!r}: {reason}. "
        "Choose another with --trial."
    )


def search_all(client: MlflowClient, query: str, view: int = ViewType.ACTIVE_ONLY) -> list[Any]:
    """Runs of every experiment that fit a query.

    Raises:
        StudyError: If the store refuses the request.
        RunError: If the store stays away.
    """
    experiments = call_with_retry(lambda: _pages(client.search_experiments, view_type=view))
    return _runs_of(client, [str(experiment.experiment_id) for experiment in experiments], query, view)


def _runs_of(client: MlflowClient, experiments: list[str], query: str, view: int) -> list[Any]:
    if not experiments:
        return []
    search = partial(client.search_runs, experiments, query, run_view_type=view, max_results=1000)
    return call_with_retry(_pages, search)


def _pages(search: Callable[..., Any], **options: Any) -> list[Any]:
    """Everything that a search finds, a page after the other."""
    found: list[Any] = []
    token = None
    while True:
        page = search(page_token=token, **options)
        found += page
        token = page.token
        if not token:
            return found


def log_report(client: MlflowClient, study: StoredStudy, page: str) -> None:
    """Keep a report beside the study, in the place of an earlier one."""
    call_with_retry(client.log_text, study.run_id, page, REPORT)
