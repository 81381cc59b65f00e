"""Write a study to MLflow, with a parent run for the study and a child run for each trial."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, SourceType
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from bhsearch.config import model_limit
from bhsearch.errors import MissingError, StudyError
from bhsearch.evaluation.image_columns import ImageColumns
from bhsearch.evaluation.predictions import DISCLAIMER, Predictions
from bhsearch.evaluation.robustness import Robustness
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.structures import ArchivePool
from bhsearch.objectives.base import MS_PER_IMAGE
from bhsearch.runtime.store_schema import SCHEMA, require_schema
from bhsearch.states import COMPLETE, FAILED, PRUNED
from bhsearch.tasks import restore_task, task_record
from bhsearch.tracking import keys, model_files, notes
from bhsearch.tracking.connection import open_experiment, require_experiment_schema
from bhsearch.tracking.keys import LOST, MODEL, NO_TRIAL, REASON, RETRY_OF, RETRY_OF_RUN, STATE, STUDY, TRIAL, UID
from bhsearch.tracking.records import StudyRecord, SummaryRecord, TrialRecord
from bhsearch.tracking.requests import call_with_retry
from bhsearch.tracking.saved_views import write_views
from bhsearch.tracking.upload import artifacts
from bhsearch.tracking.upload.model_log import VECTORS, ModelLog, log_folder
from bhsearch.tracking.upload.model_retention import KEPT, NONE, ModelRetention
from bhsearch.tracking.upload.outbox import Message
from bhsearch.tracking.upload.trial_files import write_trial_files

if TYPE_CHECKING:
    from mlflow import MlflowClient

_STATUS = {COMPLETE: "FINISHED", PRUNED: "KILLED", FAILED: "FAILED"}


def find_study_run(client: MlflowClient, experiment_id: str, uid: str) -> str | None:
    """Return the id of a study's parent run; the earlier one if two hosts created one each; None if none exists."""
    found = _study_runs(client, experiment_id, uid)
    return str(found[0].info.run_id) if found else None


def _study_runs(client: MlflowClient, experiment_id: str, uid: str) -> list[Any]:
    wanted = f"tags.`{UID}` = '{uid}' and tags.`{TRIAL}` = '{NO_TRIAL}'"
    return list(client.search_runs([experiment_id], wanted, order_by=["attributes.start_time ASC"]))


def runs_of_trials(client: MlflowClient, experiment_id: str, uid: str, number: int | None = None) -> dict[int, Any]:
    """Return the runs of all trials of a study, or of one trial, by trial number."""
    runs: dict[int, Any] = {}
    token = None
    which = f"= '{number}'" if number is not None else f"!= '{NO_TRIAL}'"
    while True:
        page = client.search_runs(
            [experiment_id], f"tags.`{UID}` = '{uid}' and tags.`{TRIAL}` {which}", max_results=1000, page_token=token
        )
        runs.update({int(run.data.tags[TRIAL]): run for run in page})
        token = page.token
        if not token:
            return runs


def stored_predictions(client: MlflowClient, experiment_name: str, uid: str) -> dict[int, Predictions]:
    """Return the out-of-fold predictions of a study's complete trials in this store, by trial number.

    Raises:
        StudyError: If the store refuses a request, or if the experiment has another schema.
        RunError: If the store stays unavailable.
    """
    experiment = call_with_retry(client.get_experiment_by_name, experiment_name)
    if experiment is None:
        return {}
    require_experiment_schema(experiment)
    found: dict[int, Predictions] = {}
    for number, run in call_with_retry(runs_of_trials, client, experiment.experiment_id, uid).items():
        if run.info.status != "FINISHED":
            continue
        with suppress(MissingError), tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "predictions.csv"
            file.write_bytes(model_files.read_bytes(run.info.artifact_uri, keys.PREDICTIONS))
            found[number] = Predictions.from_csv(file).sharing(next(iter(found.values()), None))
    return found


class RunWriter:
    """Writer of the runs of one study in one MLflow store.

    Args:
        client: Client of the MLflow store.
        study: Record and arrays of the study, from `Outbox.study`.
        say: Called with sentences for the user that do not concern the runs.
    """

    def __init__(
        self, client: MlflowClient, study: Message[StudyRecord], say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._client, self._study, self._record, self._say = client, study, study.record, say
        self._task = restore_task(study.record.get("task"))
        require_schema(study.record.get("schema"), f"The outbox {study.folder.parent}")
        self.experiment_id = open_experiment(client, self._record["experiment"])
        self._archives = ArchivePool(self._task.link)
        self._model_log = ModelLog(client, self.experiment_id, self._record["requirements"], self._model_metadata())
        self._shift_weight = float(study.record["settings"].get("score_weight_shift", 0.0))
        self._precisions: dict[str, Any] = {}  # choices of the precision of features that the study's run has
        self._config: set[str] = set()  # names of the settings logged on the study's run
        self.notes: list[str] = []  # sentences for the user
        self.run_id = self._study_run()
        self._write_views()
        self._done = runs_of_trials(client, self.experiment_id, self._record["uid"])
        found = {number: keys.score_of(run.data.metrics) for number, run in self._done.items()}
        self._scores = {number: score for number, score in found.items() if score is not None}
        self._begun: set[int] = set()  # trials whose run an earlier attempt may have created
        most = model_limit(self._record["settings"].get("keep_models", "all"))
        self._models = ModelRetention(client, self.experiment_id, self._record["uid"], most)

    def log_trial(self, message: Message[TrialRecord]) -> str:
        """Log one trial as a child run, unless its complete run already exists.

        Returns:
            The id of the trial's run.
        """
        record = message.record
        number = record["number"]
        if number in self._begun:
            self._done.pop(number, None)
            self._done |= runs_of_trials(self._client, self.experiment_id, self._record["uid"], number)
        self._begun.add(number)
        known = self._done.get(number)
        if known is not None and known.info.status == _STATUS[record["state"]]:
            return str(known.info.run_id)
        if known is not None:  # the run is incomplete: a process died or the store became unavailable
            self._delete(known.info.run_id)
        with tempfile.TemporaryDirectory() as folder:
            if record["state"] != COMPLETE:
                return self._log_run(message, {}, None)
            # Before the run is created, which an error would leave incomplete.
            values = write_trial_files(Path(folder), self._study, message)
            return self._log_run(message, values, Path(folder))

    def _log_run(self, message: Message[TrialRecord], values: dict[str, float], files: Path | None) -> str:
        """Create the run of a trial with everything that belongs to it, and return the id of the run.

        Args:
            message: Record and arrays of the trial.
            values: Metrics of a complete trial; empty for others.
            files: Folder of the artifacts of a complete trial; None for others.
        """
        record = message.record
        number = record["number"]
        joined = self._log_joined(record)
        note = notes.trial_note(self._record, record, values, self.experiment_id, self.run_id)
        tags = self._tags(str(number)) | {MLFLOW_PARENT_RUN_ID: self.run_id, STATE: record["state"].lower()}
        if "backbone" in record["params"]:  # a trial that fails early may have none
            tags[keys.LICENCE] = keys.licence_of(self._record["tags"], record["params"]["backbone"])
        if joined:
            tags[keys.JOINED] = " + ".join(joined)
        if "precision" in record:
            tags[keys.FEATURE_PRECISION] = record["precision"]["precision"]
        if files is not None:
            values |= {keys.SECONDS: record["seconds"]}
            values |= {f"{keys.COST}{name}": value for name, value in record["cost"].items()}
            milliseconds = record["cost"].get(MS_PER_IMAGE, np.inf)
            keep = self._models.wants(values[self._of_score(keys.AUC)], number, milliseconds)
            tags[MODEL] = KEPT if keep else NONE
        run = self._client.create_run(
            self.experiment_id,
            record["started_ms"],
            tags if record.get("retry_of") is None else {**tags, RETRY_OF: str(record["retry_of"])},
            keys.trial_name(number, record["params"]),
        )
        self._done[number] = run
        run_id = str(run.info.run_id)
        self._link_retries(run_id, record)
        # The model is logged before the metrics, so that they can name it.
        model_id = self._log_model(run_id, message) if tags.get(MODEL) == KEPT else None
        self._log_facts(run_id, record, note, _metrics(record, values, model_id))
        if files is not None:
            log_folder(run.info.artifact_uri, files, self._client)
            self._log_dataset(run_id, "cross-validation")
            self._log_progress(record, values)
        self._client.set_terminated(run_id, _STATUS[record["state"]], record["ended_ms"])
        self._models.tidy()
        return run_id

    def _log_facts(self, run_id: str, record: TrialRecord, note: str, metrics: list[Metric]) -> None:
        """Log params, metrics and texts of a trial in one request, unless the metrics need several."""
        params = [Param(key, str(value)) for key, value in record["params"].items()]
        texts = {MLFLOW_RUN_NOTE: note} | ({REASON: record["reason"]} if "reason" in record else {})
        self._client.log_batch(run_id, metrics, params, [RunTag(*text) for text in texts.items()])

    def _log_progress(self, record: TrialRecord, values: dict[str, float]) -> None:
        """Log a trial's score and the best score so far on the study's run; repeated calls write the same points."""
        number, ended, score = record["number"], record["ended_ms"], values[self._of_score(keys.AUC)]
        self._scores[number] = score
        best = max(score for other, score in self._scores.items() if other <= number)
        metrics = [
            Metric(self._of_score(keys.TRIAL_AUC), score, ended, number),
            Metric(keys.TRIAL_BEST, best, ended, number),
        ]
        self._log_config(record.get("resolved", {}))
        self._log_precision(record)
        self._client.log_batch(self.run_id, metrics=metrics)

    def _of_score(self, name: str) -> str:
        return keys.of_score(name, self._shift_weight > 0)

    def _log_config(self, settings: Mapping[str, Any]) -> None:
        """Log the settings that the study's run does not have yet; MLflow does not allow a parameter to change."""
        params = {name: value for name, value in keys.config_params(settings).items() if name not in self._config}
        if params:
            self._client.log_batch(self.run_id, params=[Param(name, value[:6000]) for name, value in params.items()])
            self._config |= set(params)

    def _log_precision(self, record: TrialRecord) -> None:
        """Log how the precision of a backbone's features was chosen, on the study's run, unless the run has it."""
        backbone = record["params"]["backbone"]
        if "precision" in record and backbone not in self._precisions:
            tags = self._client.get_run(self.run_id).data.tags  # another command may have added backbones
            self._precisions = {
                **json.loads(tags.get(keys.FEATURE_PRECISIONS, "{}")),
                backbone: record["precision"],
            }
            self._client.set_tag(self.run_id, keys.FEATURE_PRECISIONS, json.dumps(self._precisions))

    def _log_joined(self, record: TrialRecord) -> Sequence[str]:
        """Log which backbones a trial's backbone joins, on the study's run, and return their names; empty for one."""
        backbone = record["params"].get("backbone", "")
        tags = self._record["tags"]
        if "joined" in record and not keys.joined_of(tags, backbone):
            held = self._client.get_run(self.run_id).data.tags.get(keys.JOINTS, "{}")
            tags[keys.JOINTS] = json.dumps({**json.loads(held), backbone: record["joined"]})
            self._client.set_tag(self.run_id, keys.JOINTS, tags[keys.JOINTS])
        return keys.joined_of(tags, backbone)

    def _write_views(self) -> None:
        try:
            space = self._record["files"]["space.json"]
            score = self._of_score(keys.AUC)
            write_views(self._client, self.experiment_id, self._record["uid"], space, score)
        except Exception as error:  # views are optional, so no error may prevent the logging of runs
            reason = (str(error).splitlines() or [repr(error)])[0]
            self._say(f"MLflow could not be given the views of the trials, only their runs: {reason}")

    def _link_retries(self, run_id: str, record: TrialRecord) -> None:
        """Tag the run of a retry with the run of the retried trial, whichever of the two is logged first.

        Uploaders of several commands may log them at the same time. Each looks for the other run after it has created
        its own, so that one of them finds both.
        """
        number = record.get("retry_of")
        if number is not None:
            if number not in self._done:
                self._done |= runs_of_trials(self._client, self.experiment_id, self._record["uid"], number)
            if number in self._done:
                self._client.set_tag(run_id, RETRY_OF_RUN, self._done[number].info.run_id)
        if record["state"] == FAILED:
            which = f"tags.`{UID}` = '{self._record['uid']}' and tags.`{RETRY_OF}` = '{record['number']}'"
            for retry in self._client.search_runs([self.experiment_id], which):
                self._client.set_tag(retry.info.run_id, RETRY_OF_RUN, run_id)

    def _delete(self, run_id: str) -> None:
        """Delete an incompletely written run, and its models."""
        models = self._client.search_logged_models([self.experiment_id], f"source_run_id = '{run_id}'")
        for model in models:
            self._client.delete_logged_model(model.model_id)
        self._client.delete_run(run_id)

    def log_end(self, message: Message[SummaryRecord]) -> None:
        """Log the summary and pictures of a study, and end its run."""
        record = message.record
        self._reconcile(record)
        self._models.tidy()  # the process that logged the last trial may have died before tidying
        with tempfile.TemporaryDirectory() as folder:
            artifacts.write_study(Path(folder), record, message.arrays, self._record["note"], self._shift_weight)
            if record["race"]:
                artifacts.write_race(Path(folder), record, message.arrays, ImageColumns.from_arrays(self._study.arrays))
            self._client.log_artifacts(self.run_id, folder)
        metrics = [
            Metric(self._of_score(name), found[key], record["ended_ms"], 0)
            for found, names in (
                (record["corrected"], keys.CORRECTED),
                (record["default"], keys.OVER_DEFAULT),
                (record.get("nested"), keys.NESTED),
            )
            for name, key in names.items()
            if found and np.isfinite(found[key])
        ]
        metrics.append(Metric(keys.FINISHED_TRIALS, record["finished"], record["ended_ms"], 0))
        scores = {trial["number"]: trial["value"] for trial in record["trials"] if trial["value"] is not None}
        if scores:  # trials may be logged in any order, so the last point is set to the overall best
            metrics.append(Metric(keys.TRIAL_BEST, max(scores.values()), record["ended_ms"], max(scores)))
        tags = {MLFLOW_RUN_NOTE: record["summary"], **_selection_tags(record)}
        self._client.log_batch(self.run_id, metrics=metrics, tags=[RunTag(*tag) for tag in tags.items()])
        self._log_robustness(record)
        if record["lost"]:
            self._client.set_tag(self.run_id, LOST, record["lost"])
        self._client.set_terminated(self.run_id, record["status"], record["ended_ms"])

    def _log_robustness(self, record: SummaryRecord) -> None:
        """Log the robustness of trials on their runs."""
        for number, found in record.get("robustness", {}).items():
            run = self._done.get(int(number))
            if run is None:  # logged by another command
                self._done |= runs_of_trials(self._client, self.experiment_id, self._record["uid"], int(number))
                run = self._done[int(number)]
            self._client.log_batch(
                run.info.run_id,
                metrics=[
                    Metric(f"{keys.ROBUSTNESS}{name}", value, record["ended_ms"], 0)
                    for name, value in Robustness.from_record(found).metrics().items()
                ],
            )

    def _reconcile(self, record: SummaryRecord) -> None:
        """Merge the parent runs if several hosts created one, and end open runs of trials that have ended."""
        runs = runs_of_trials(self._client, self.experiment_id, self._record["uid"])
        first, *others = _study_runs(self._client, self.experiment_id, self._record["uid"])
        self.run_id = first.info.run_id
        if others:
            for run in runs.values():
                self._client.set_tag(run.info.run_id, MLFLOW_PARENT_RUN_ID, self.run_id)
            for run in others:
                self._client.delete_run(run.info.run_id)
        for number in record["settled"]:
            run = runs.get(number)
            if run is not None and run.info.status == "RUNNING":
                self._client.set_tag(run.info.run_id, REASON, "it was not logged to its end, and its record is gone")
                self._client.set_terminated(run.info.run_id, "FAILED")

    def _study_run(self) -> str:
        """Find or create the parent run, log the study's facts and files to it, and return its id."""
        record = self._record
        run_id = find_study_run(self._client, self.experiment_id, record["uid"])
        if run_id is None:
            self._look_at_namesakes()
            tags = self._tags(NO_TRIAL) | {keys.SCHEMA: str(SCHEMA)} | record["tags"]
            run_id = self._client.create_run(self.experiment_id, None, tags, record["study"]).info.run_id
            self._log_dataset(run_id, "search")
        with tempfile.TemporaryDirectory() as folder:  # at every start: search space or package versions may differ
            for name, content in record["files"].items():
                (Path(folder) / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
            self._client.log_artifacts(run_id, folder, keys.STUDY_FOLDER)
        self._client.update_run(run_id, status="RUNNING")
        self.run_id = str(run_id)
        run = self._client.get_run(run_id)
        if LOST in run.data.tags:  # the lost storage is available again
            self._client.delete_tag(run_id, LOST)
        licences = record["tags"].get(keys.LICENCES)
        if licences and licences != run.data.tags.get(keys.LICENCES):  # added backbones, or a study begun before
            self._client.set_tag(run_id, keys.LICENCES, licences)
        self._config = set(run.data.params)
        self._log_config(record["settings"])
        return self.run_id

    def _look_at_namesakes(self) -> None:
        """Check whether the experiment has another study with the name of this new study.

        Raises:
            StudyError: If the other study lost its storage, because this study is then probably a repeated command.
        """
        name = self._record["study"]
        found = self._client.search_runs([self.experiment_id], f"tags.`{TRIAL}` = '{NO_TRIAL}'", max_results=1000)
        others = [run.data.tags for run in found if run.data.tags.get(STUDY) == name]
        lost = next((tags for tags in others if LOST in tags), None)
        if lost is not None:
            raise StudyError(
                f"The study {name!r} lost its database during the search: {lost[LOST]} Its trials are in MLflow (uid "
                f"{lost[UID]}). Restore the file to continue the study, or create a new study with --study."
            )
        if others:
            self.notes.append(
                f"MLflow has another study named {name!r} (uid {', '.join(tags[UID] for tags in others)}), which is "
                f"not in this storage. This is a new study (uid {self._record['uid']}); choose another name with "
                "--study to tell them apart."
            )

    def _log_model(self, run_id: str, message: Message[TrialRecord]) -> str:
        """Log the model of a trial, and return the model's id."""
        record, settings = message.record, self._record["settings"]
        backbone = self._backbone_of(record)
        archive = self._archives.get(
            backbone, settings["resize"], settings["image_size"], record["model"], message.arrays
        )
        more: dict[str, Any] = {}
        if "precision" in record:
            more["feature_precision"] = record["precision"]["precision"]
        vectors = keys.vectors_of(self._record["tags"], backbone.name)
        if vectors is not None:
            more[VECTORS] = vectors
        return self._model_log.log(run_id, record["params"], archive, more)

    def _backbone_of(self, record: TrialRecord) -> Backbone:
        name = record["params"]["backbone"]
        singles = [Backbone.from_record(self._record["backbones"][each]) for each in record.get("joined", [name])]
        return Backbone.join(name, singles) if "joined" in record else singles[0]

    def _model_metadata(self) -> dict[str, Any]:
        return {
            "task": task_record(self._task),
            "output": "P(malignant), mean over the folds",
            "split_fingerprint": self._record["tags"][keys.SPLIT_FINGERPRINT],
            "data_fingerprint": self._record["tags"][keys.DATA_FINGERPRINT],
            "use": DISCLAIMER,
        }

    def _log_dataset(self, run_id: str, context: str) -> None:
        record = self._record
        source = json.dumps({"uri": record["root"]})
        data = Dataset(record["data"], record["digest"], "local", source)
        tag = InputTag(MLFLOW_DATASET_CONTEXT, context)
        self._client.log_inputs(run_id, [DatasetInput(data, [tag])])

    def _tags(self, trial: str) -> dict[str, str]:
        return {
            UID: self._record["uid"],
            TRIAL: trial,
            keys.STUDY: self._record["study"],
            MLFLOW_USER: self._record["user"],
            MLFLOW_SOURCE_NAME: keys.SEARCH_SOURCE,
            MLFLOW_SOURCE_TYPE: SourceType.to_string(SourceType.LOCAL),
        }


def _selection_tags(record: SummaryRecord) -> dict[str, str]:
    """Return the tags with the best trial, the proposed trial, the reason, and the trial with default parameters."""
    chosen, default = record["selection"], record["default"]
    tags = {} if default is None else {keys.DEFAULT_TRIAL: str(default["number"])}
    if chosen is not None:
        tags[keys.BEST_TRIAL], tags[keys.PROPOSED_TRIAL] = str(chosen["best"]), str(chosen["proposed"])
        tags[keys.PROPOSED_BECAUSE] = chosen["reason"]
    return tags


def _metrics(record: TrialRecord, values: Mapping[str, float], model_id: str | None) -> list[Metric]:
    """Return the metrics of a trial: final ones, which are also the model's, and learning curves."""
    ended = record["ended_ms"]
    if record["state"] == PRUNED:
        return [Metric(keys.SECONDS, record["seconds"], ended, 0), *_curves(record)]
    if record["state"] != COMPLETE:
        return []
    final = [Metric(name, value, ended, 0, model_id) for name, value in values.items() if np.isfinite(value)]
    return final + _curves(record)


def _curves(record: TrialRecord) -> list[Metric]:
    """Return the learning curves of a trial as metrics.

    The step is the epoch of a head, or the quarter of a finetuning run. Curves over penalties are not logged, because
    the step of a metric is a point in time.
    """
    if artifacts.PENALTIES in record["curves"]:
        return []
    return [
        Metric(f"{keys.EPOCH}{name}", value, record["ended_ms"], step)
        for name, curve in record["curves"].items()
        for step, value in enumerate(curve, start=1)
        if np.isfinite(value)
    ]
