"""MLflow's registry: openings of sealed tests, registered versions, their aliases, and the history of promotions."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, ViewType
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_USER,
)

from bhsearch.environment import user_name
from bhsearch.errors import SettingsError, StudyError, listed
from bhsearch.tracking import kept, notes, serving
from bhsearch.tracking.keys import ALIAS, FORCED, GATE, GATE_NUMBERS, GATE_REASON, OPENED, SEALED, STUDY
from bhsearch.tracking.studies import StoredStudy, StoredTrial, search_all

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER, CHAMPION = "challenger", "champion"
OPENINGS, REASON = "bhsearch.openings", "bhsearch.reason"
LINEAGE = "lineage.json"
_TRIAL, _SPLIT = "bhsearch.opened_trial", "bhsearch.split_fingerprint"
_LONGEST_TAG = 5000
_PROMOTION, _DATA, _RUN = "bhsearch.promotion.", "bhsearch.data", "bhsearch.test_run"
_OF_THE_TEST = (GATE, GATE_REASON, GATE_NUMBERS, FORCED, ALIAS)  # tags of a version that its test's run has, too


@dataclass(frozen=True)
class Opening:
    """One time that a sealed test was opened.

    Attributes:
        when: UTC, ISO 8601.
        study: Name of the study that it was opened for.
        trial: Number of the trial.
        split: Fingerprint of its split.
        run_id: The run that holds what came of it.
    """

    when: str
    study: str
    trial: str
    split: str
    run_id: str

    def __str__(self) -> str:
        return f"{self.when}, {self.study}, trial {self.trial}, split {self.split}"


@dataclass(frozen=True)
class Version:
    """A registered version.

    Attributes:
        name: Of the registered model.
        number: Of the version.
        run_id: The run of its test.
    """

    name: str
    number: str
    run_id: str

    @property
    def uri(self) -> str:
        """As MLflow takes it."""
        return f"models:/{self.name}/{self.number}"


def openings(client: MlflowClient, sealed: str) -> list[Opening]:
    """Every opening of a set of sealed images in this store, first to last; deleting a run undoes none.

    Args:
        client: Of the store.
        sealed: Digest of the set.
    """
    runs = search_all(client, f"tags.`{SEALED}` = '{sealed}'", ViewType.ALL)
    tags = [(run.data.tags, run.info.run_id) for run in runs]
    found = [Opening(t[OPENED], t[STUDY], t[_TRIAL], t[_SPLIT], run_id) for t, run_id in tags if OPENED in t]
    return sorted(found, key=lambda opening: (opening.when, opening.run_id))


def open_seal(
    client: MlflowClient, study: StoredStudy, trial: StoredTrial, sealed: str, fixed: Mapping[str, float]
) -> str:
    """Write down that a sealed test is being opened, and for what; call it before anything is read of it.

    Args:
        client: Of the store.
        study: The study.
        trial: The trial that will be tested.
        sealed: Digest of the set of sealed images.
        fixed: What was fixed before: calibration and threshold.

    Returns:
        The run that counts as the opening, running, a child of the study.
    """
    split = study.tags[_SPLIT]
    number = len(openings(client, sealed)) + 1
    tags = {
        MLFLOW_PARENT_RUN_ID: study.run_id,
        MLFLOW_SOURCE_NAME: "bhsearch.register",
        MLFLOW_USER: user_name(),
        SEALED: sealed,
        OPENED: datetime.now(UTC).isoformat(timespec="milliseconds"),
        STUDY: study.name,
        _TRIAL: str(trial.number),
        _SPLIT: split,
    }
    name = f"test {number} of trial {trial.number:03d}"
    run_id = str(client.create_run(study.experiment_id, None, tags, name).info.run_id)
    params = {**trial.params, **{key: repr(value) for key, value in fixed.items()}}
    client.log_batch(run_id, params=[Param(key, value) for key, value in params.items()])
    source = json.dumps({"uri": study.root})
    data = Dataset(f"{study.data} sealed", sealed, "local", source)
    client.log_inputs(run_id, [DatasetInput(data, [InputTag(MLFLOW_DATASET_CONTEXT, "test")])])
    _recount(client, sealed)
    return run_id


def _recount(client: MlflowClient, sealed: str) -> None:
    """Put the count beside every number that came of this set, the earlier ones too."""
    found = openings(client, sealed)
    for opening in found:
        if client.get_run(opening.run_id).info.lifecycle_stage == "active":
            client.set_tag(opening.run_id, OPENINGS, str(len(found)))
    for version in client.search_model_versions(f"tags.`{SEALED}` = '{sealed}'"):
        client.set_model_version_tag(version.name, version.version, OPENINGS, str(len(found)))


def log_test(client: MlflowClient, run_id: str, values: Mapping[str, float], folder: Path) -> None:
    """Keep what a test gave: metrics and files."""
    now = int(datetime.now(UTC).timestamp() * 1000)
    client.log_batch(
        run_id, metrics=[Metric(name, value, now, 0) for name, value in values.items() if np.isfinite(value)]
    )
    client.log_artifacts(run_id, str(folder))


def end_test(client: MlflowClient, run_id: str, reason: str = "") -> None:
    """End the run of an opening: finished, or failed for a reason."""
    if reason:
        client.set_tag(run_id, REASON, reason)
    client.set_terminated(run_id, "FAILED" if reason else "FINISHED")


def check_name(name: str, alias: str) -> None:
    """Refuse a name or an alias that MLflow would refuse after the test was opened.

    Raises:
        SettingsError: If it is none.
    """
    from mlflow.utils import validation

    if alias == CHALLENGER:
        raise SettingsError(
            f"--alias must be what a passing version gets, but {CHALLENGER!r} is what every version gets."
        )
    checks = (
        ("--name", name, validation._validate_model_name),
        ("--alias", alias, validation._validate_model_alias_name),
        ("--alias", alias, validation._validate_model_alias_name_reserved),
    )
    for option, value, check in checks:
        try:
            check(value)
        except MlflowException as error:
            raise SettingsError(f"{option} must be a name that MLflow takes, but got {value!r}: {error}") from error


def register(
    client: MlflowClient,
    run_id: str,
    name: str,
    network: Any,
    requirements: list[str],
    metadata: dict[str, Any],
    tags: Mapping[str, str],
) -> Version:
    """Log a model to the run of its test, register it as a new version, and make that the challenger.

    Args:
        client: Of the store.
        run_id: The run of its test.
        name: Of the registered model, made where it is new.
        network: The calibrated Keras model.
        requirements: For pip.
        metadata: Travels with the model: `threshold`, `classes`, ...
        tags: Of the version.
    """
    # Whoever calls may have chosen another experiment, in which MLflow would refuse to go on with this run.
    mlflow.set_experiment(experiment_id=client.get_run(run_id).info.experiment_id)
    with mlflow.start_run(run_id=run_id):
        logged = Model.log(
            artifact_path=None,
            name="model",
            flavor=sys.modules[serving.__name__],
            metadata=metadata,
            network=network,
            requirements=requirements,
        )
    try:
        client.create_registered_model(name, {_DATA: str(metadata["data"])}, notes.model_description(metadata))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    uri = f"models:/{logged.model_id}"
    made = client.create_model_version(name, uri, run_id, {**tags, _RUN: run_id}, model_id=logged.model_id)
    client.set_registered_model_alias(name, CHALLENGER, made.version)
    return version_of(client, name, str(made.version))


def holder(client: MlflowClient, name: str, alias: str) -> Version | None:
    """The version that has an alias, or None."""
    try:
        found = client.get_model_version_by_alias(name, alias)
    except MlflowException:
        return None
    return version_of(client, name, str(found.version))


def version_of(client: MlflowClient, name: str, number: str) -> Version:
    """A version by its number."""
    found = client.get_model_version(name, number)
    return Version(name, str(found.version), str(found.run_id))


def describe(client: MlflowClient, version: Version, run_id: str, note: str, tags: Mapping[str, str]) -> None:
    """Put a note in Markdown on a version and the run of its test, and tags on the version, cut where MLflow would."""
    client.set_tag(run_id, MLFLOW_RUN_NOTE, note)
    client.update_model_version(version.name, version.number, description=note)
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.number, key, value[:_LONGEST_TAG])
        if key in _OF_THE_TEST:  # a version may be deleted; what the gate said of the test stays with the test
            client.set_tag(run_id, key, value[:_LONGEST_TAG])


def promote(
    client: MlflowClient, version: Version, alias: str, how: str, reason: str, numbers: Mapping[str, float]
) -> None:
    """Give a version an alias, and write that into the model's history.

    Args:
        client: Of the store.
        version: The version.
        alias: Such as `champion`.
        how: `gate` or `force`.
        reason: Of the gate, or the user's.
        numbers: That the gate had.
    """
    before = holder(client, version.name, alias)
    history = promotions(client, version.name)
    entry = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "alias": alias,
        "version": version.number,
        "instead_of": before.number if before else None,
        "how": how,
        "reason": reason,
        "numbers": {key: round(value, 5) for key, value in numbers.items()},
    }
    client.set_registered_model_tag(
        version.name, f"{_PROMOTION}{len(history) + 1:04d}", json.dumps(entry)[:_LONGEST_TAG]
    )
    client.set_registered_model_alias(version.name, alias, version.number)


def promotions(client: MlflowClient, name: str) -> list[dict[str, Any]]:
    """The history of a registered model, first to last."""
    tags = client.get_registered_model(name).tags
    return [json.loads(tags[key]) for key in sorted(tags) if key.startswith(_PROMOTION)]


def lineage(client: MlflowClient, version: Version) -> dict[str, Any]:
    """What a version was developed and tested on: `development` and `test`, each with `case` and `pixels_digest`.

    Raises:
        StudyError: If the version does not say.
    """
    try:
        uri = f"{client.get_run(version.run_id).info.artifact_uri}/{LINEAGE}"
        return dict(json.loads(kept.read_text(uri)))
    except (MlflowException, OSError) as error:
        raise StudyError(
            f"The champion must say what it was developed on, but version {version.number} of {version.name!r} does "
            "not: bhsearch did not register it, or its run is gone. Register under another --name."
        ) from error


def resolve(client: MlflowClient, uri: str | None, alias: str = CHAMPION) -> str:
    """The URI of a registered model: as given, or the champion of the only model of this store.

    Raises:
        StudyError: If there is no champion, or more than one.
    """
    if uri is not None:
        return uri if "/" in uri else f"models:/{uri}@{alias}"
    found = [model for model in _registered(client) if alias in model.aliases]
    if len(found) != 1:
        names = [f"models:/{model.name}@{alias}" for model in found]
        what = f"there are {len(found)}:\n{listed(names)}\nName one" if found else "there is none. Name a model"
        raise StudyError(f"The MLflow store must have one {alias}, but {what} with --model.")
    return f"models:/{found[0].name}@{alias}"


def _registered(client: MlflowClient) -> list[Any]:
    found, token = [], None
    while True:
        page = client.search_registered_models(page_token=token)
        found += [model for model in page if _DATA in model.tags]
        token = page.token
        if not token:
            return found
