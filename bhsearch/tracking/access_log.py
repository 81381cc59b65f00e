"""Log each access to a sealed test before a test image is read.

Each access is logged on a run, the experiment and the registered model, so that deleting one of them removes no access.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME, MLFLOW_USER

from bhsearch.errors import MissingError
from bhsearch.runtime.environment import user_name
from bhsearch.text import plural
from bhsearch.tracking import model_files
from bhsearch.tracking.keys import (
    ACCESS_COPY,
    LINEAGE,
    OPENED,
    OPENED_TRIAL,
    OPENED_UID,
    OPENING_ID,
    OPENINGS,
    REASON,
    REGISTER_SOURCE,
    SEALED,
    SPLIT_FINGERPRINT,
    STUDY,
)
from bhsearch.tracking.reader import StoredStudy, StoredTrial, search_all
from bhsearch.tracking.registry import LONGEST_TAG, make_model, registered_models
from bhsearch.tracking.requests import call_with_retry
from bhsearch.tracking.store_uri import hidden

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion


_TOKEN = object()


@dataclass(frozen=True)
class TestAccess:
    """A logged access to a sealed test.

    Attributes:
        when: Time of the access, UTC, ISO 8601.
        study: Name of the study.
        trial: Number of the trial.
        split: Fingerprint of the split.
        run_id: Run with the result of the test; the run may have been deleted.
        uid: Identifier of the study; empty if the identifier was not logged.
        key: Identifier of the access, the same on run, experiment and registered model.
        shared: What the opened set shares with the examined one, such as `12 of 41 images`; only from `overlapping`.
    """

    when: str
    study: str
    trial: str
    split: str
    run_id: str
    uid: str
    key: str
    shared: str = ""

    def __str__(self) -> str:
        shared = f" ({self.shared})" if self.shared else ""
        return f"{self.when}, {self.study}, trial {self.trial}, split {self.split}{shared}"


class LoggedAccess:
    """Proof that an access to a sealed test was logged. Only `log_access` creates instances.

    Args:
        token: Private token of this module, which only `log_access` passes.
        run_id: Run on which the access is logged; also an attribute.
        sealed: Digest that identifies the images of the held-out test set; also an attribute.

    Raises:
        TypeError: If `token` is not the private token.
    """

    def __init__(self, token: object, run_id: str, sealed: str) -> None:
        if token is not _TOKEN:
            raise TypeError("Create a LoggedAccess only with `log_access`, which records the access.")
        self.run_id, self.sealed = run_id, sealed


def accesses(client: MlflowClient, sealed: str) -> list[TestAccess]:
    """Return every access to the images of a held-out test set in this store, oldest first.

    Accesses are read from runs, including deleted runs, and from the tags of experiments and registered models.
    Deleting a run, an experiment or a model, even permanently with `mlflow gc`, therefore removes no access.

    Args:
        client: Client of the MLflow store.
        sealed: Digest that identifies the images of the held-out test set.
    """
    found: dict[str, TestAccess] = {}
    experiments = call_with_retry(lambda: list(client.search_experiments(view_type=ViewType.ALL)))
    for tags in [*(each.tags for each in experiments), *(each.tags for each in registered_models(client))]:
        for key, text in tags.items():
            if key.startswith(ACCESS_COPY):
                copy = json.loads(text)
                if copy.pop("sealed") == sealed:
                    found[copy["key"]] = TestAccess(**copy)
    for run in search_all(client, f"tags.`{SEALED}` = '{sealed}'", ViewType.ALL):
        if OPENED in run.data.tags:
            access = _access_of(run)
            found.setdefault(access.key, access)
    return sorted(found.values(), key=lambda opening: (opening.when, opening.key))


def overlapping(client: MlflowClient, sealed: str, images: Collection[str]) -> list[TestAccess]:
    """Return the accesses to other held-out test sets that share images with this one, oldest first.

    They are found by the images that the run of a registration records, so that permanently deleted runs and accesses
    that failed before there was a result are not found.

    Args:
        client: Client of the MLflow store.
        sealed: Digest that identifies the images of this held-out test set.
        images: Digests of the pixels of these images.
    """
    found = []
    for run in search_all(client, f"tags.`{OPENED}` != ''", ViewType.ALL):
        if run.data.tags.get(SEALED) == sealed:
            continue
        try:
            lineage = json.loads(model_files.read_text(run.info.artifact_uri, LINEAGE))
        except MissingError:
            continue
        shared = len(set(images) & set(lineage["test"]["pixels_digest"]))
        if shared:
            found.append(replace(_access_of(run), shared=f"{shared:,} of {plural(len(set(images)), 'image')}"))
    return sorted(found, key=lambda opening: (opening.when, opening.key))


def _access_of(run: Run) -> TestAccess:
    """Return the access that a run of a registration records in its tags."""
    tags, run_id = run.data.tags, run.info.run_id
    return TestAccess(
        tags[OPENED],
        tags[STUDY],
        tags[OPENED_TRIAL],
        tags[SPLIT_FINGERPRINT],
        run_id,
        tags.get(OPENED_UID, ""),
        tags.get(OPENING_ID, run_id),
    )


def log_access(
    client: MlflowClient, study: StoredStudy, trial: StoredTrial, sealed: str, fixed: Mapping[str, float], name: str
) -> LoggedAccess:
    """Log an access to a sealed test, with the numbers that were fixed before the access.

    Must be called before any test image is read.

    Args:
        client: Client of the MLflow store.
        study: The study.
        trial: The tested trial.
        sealed: Digest that identifies the images of the held-out test set.
        fixed: Calibration and threshold, by name.
        name: Name of the registered model, which is created if it does not exist.

    Returns:
        The logged access. Its run is a child of the study's run, in state RUNNING.
    """
    # All reading requests come first, so that no access is logged if one of them fails.
    number = len(accesses(client, sealed)) + 1
    versions = list(call_with_retry(client.search_model_versions, f"tags.`{SEALED}` = '{sealed}'"))
    opening = TestAccess(
        when=datetime.now(UTC).isoformat(timespec="milliseconds"),
        study=study.name,
        trial=str(trial.number),
        split=study.tags[SPLIT_FINGERPRINT],
        run_id="",
        uid=study.uid,
        key=uuid.uuid4().hex[:12],
    )
    tags = {
        MLFLOW_PARENT_RUN_ID: study.run_id,
        MLFLOW_SOURCE_NAME: REGISTER_SOURCE,
        MLFLOW_USER: user_name(),
        SEALED: sealed,
        OPENED: opening.when,
        STUDY: study.name,
        OPENED_TRIAL: opening.trial,
        SPLIT_FINGERPRINT: opening.split,
        OPENED_UID: opening.uid,
        OPENING_ID: opening.key,
    }

    def make_run() -> str:
        made = client.search_runs([study.experiment_id], f"tags.`{OPENING_ID}` = '{opening.key}'", max_results=1)
        if made:  # an earlier attempt created the run, but its response was lost
            return str(made[0].info.run_id)
        title = f"test {number} of trial {trial.number:03d}"
        return str(client.create_run(study.experiment_id, None, tags, title).info.run_id)

    run_id = call_with_retry(make_run)
    _copy(client, study.experiment_id, name, study.data, {**asdict(opening), "run_id": run_id, "sealed": sealed})
    params = {**trial.params, **{key: repr(value) for key, value in fixed.items()}}
    call_with_retry(client.log_batch, run_id, params=[Param(key, value) for key, value in params.items()])
    source = json.dumps({"uri": study.root})
    data = Dataset(f"{study.data} sealed", sealed, "local", source)
    call_with_retry(client.log_inputs, run_id, [DatasetInput(data, [InputTag(MLFLOW_DATASET_CONTEXT, "test")])])
    _recount(client, sealed, versions)
    return LoggedAccess(_TOKEN, run_id, sealed)


def _copy(client: MlflowClient, experiment_id: str, name: str, data: str, opening: Mapping[str, str]) -> None:
    """Copy an access to the tags of the experiment and of the registered model, in case the run is deleted."""
    make_model(client, name, data)
    kept = {name: value for name, value in opening.items() if name != "shared"}
    key, text = f"{ACCESS_COPY}{opening['key']}", json.dumps(kept)
    call_with_retry(client.set_experiment_tag, experiment_id, key, text)
    call_with_retry(client.set_registered_model_tag, name, key, text)


def _recount(client: MlflowClient, sealed: str, versions: Sequence[ModelVersion]) -> None:
    """Update the number of accesses on all runs and versions tested on these images, earlier ones included."""
    found = accesses(client, sealed)
    for opening in found:
        try:
            active = call_with_retry(client.get_run, opening.run_id).info.lifecycle_stage == "active"
        except MissingError:  # permanently deleted
            continue
        if active:
            call_with_retry(client.set_tag, opening.run_id, OPENINGS, str(len(found)))
    for version in versions:
        call_with_retry(client.set_model_version_tag, version.name, version.version, OPENINGS, str(len(found)))


def log_test(client: MlflowClient, run_id: str, values: Mapping[str, float], folder: Path) -> None:
    """Log the metrics and files of a sealed test to its run; metrics that are not finite are omitted."""
    now = int(datetime.now(UTC).timestamp() * 1000)
    metrics = [Metric(name, value, now, 0) for name, value in values.items() if np.isfinite(value)]
    call_with_retry(client.log_batch, run_id, metrics=metrics)
    call_with_retry(client.log_artifacts, run_id, str(folder))


def end_test(client: Any, run_id: str) -> None:
    """Mark the run of an access as finished."""
    call_with_retry(client.set_terminated, run_id, "FINISHED")


def fail_test(client: Any, run_id: str, reason: str) -> None:
    """Mark the run of an access as failed, with the reason.

    Requests are not retried, because the store itself may have failed.

    Raises:
        Exception: Any error of the store.
    """
    client.set_tag(run_id, REASON, hidden(reason)[:LONGEST_TAG])
    client.set_terminated(run_id, "FAILED")
