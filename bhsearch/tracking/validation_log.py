"""Log each access to an external cohort before anything is computed on its images.

Each access is logged on a run, the experiment and the registered model, so that deleting one of them removes no access.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlflow.entities import Dataset, DatasetInput, InputTag, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME, MLFLOW_USER

from bhsearch.errors import MissingError, StudyError
from bhsearch.runtime.environment import user_name
from bhsearch.tracking import keys, model_files, registry
from bhsearch.tracking.reader import search_all
from bhsearch.tracking.registry import LONGEST_TAG, Version, registered_models
from bhsearch.tracking.requests import call_with_retry

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TOKEN = object()


@dataclass(frozen=True)
class ModelOrigin:
    """Where a registered model comes from, as recorded on the run of its sealed test.

    Attributes:
        study, uid, trial: Name and identifier of the study, and number of the trial.
        experiment_id: Experiment of the study.
        parent: Run of the study; empty if unknown.
        version: The registered version; None if it was deleted.
        lineage: `case` and `pixels_digest` of each image, for `development` and `test`.
    """

    study: str
    uid: str
    trial: str
    experiment_id: str
    parent: str
    version: Version | None
    lineage: dict[str, dict[str, list[str]]]

    @property
    def model(self) -> str:
        """Name and number of the registered version, such as `idc 3`; empty if the version was deleted."""
        return f"{self.version.name} {self.version.number}" if self.version is not None else ""


@dataclass(frozen=True)
class CohortAccess:
    """A logged access to an external cohort.

    Attributes:
        when: Time of the access, UTC, ISO 8601.
        study, uid, trial: Name and identifier of the model's study, and number of the trial.
        model: Name and number of the registered version; may be empty.
        reason: Reason that the user gave.
        run_id: Run with the result of the validation; the run may have been deleted.
        key: Identifier of the access, the same on run, experiment and registered model.
    """

    when: str
    study: str
    uid: str
    trial: str
    model: str
    reason: str
    run_id: str
    key: str

    def __str__(self) -> str:
        which = f"{self.model}, " if self.model else ""
        return f"{self.when}, {which}{self.study}, trial {self.trial}: {self.reason}"


class LoggedCohortAccess:
    """Proof that an access to an external cohort was logged. Only `log_cohort_access` creates instances.

    Args:
        token: Private token of this module, which only `log_cohort_access` passes.
        run_id: Run on which the access is logged.
        cohort: Digest of the set of images of the cohort.
        accesses: All accesses to the cohort so far, by any model, with this one as the last.

    Raises:
        TypeError: If `token` is not the private token.
    """

    def __init__(self, token: object, run_id: str, cohort: str, accesses: Sequence[CohortAccess]) -> None:
        if token is not _TOKEN:
            raise TypeError("A LoggedCohortAccess must come from log_cohort_access, which counts it.")
        self.run_id, self.cohort, self.accesses = run_id, cohort, accesses


def origin_of(client: MlflowClient, uri: str, run_id: str) -> ModelOrigin:
    """Return the origin of a registered model.

    Args:
        client: Client of the MLflow store.
        uri: Model as named by the user, for messages.
        run_id: Run from which the model was logged: the run of its sealed test.

    Raises:
        StudyError: If the store does not contain the run, or the run has no lineage, so that images of the cohort could
            be images that the model was trained on.
        RunError: If the store stays unavailable.
    """
    try:
        run = call_with_retry(client.get_run, run_id)
        lineage = json.loads(model_files.read_text(run.info.artifact_uri, keys.LINEAGE))
    except MissingError as error:
        raise StudyError(
            f"A model must be validated in the MLflow store in which it was registered, because its training images "
            f"are recorded there, but the run {run_id or '(none)'} of {uri} is not in this store or has no record of "
            "them."
        ) from error
    tags = run.data.tags
    return ModelOrigin(
        study=tags.get(keys.STUDY, ""),
        uid=tags.get(keys.OPENED_UID, ""),
        trial=tags.get(keys.OPENED_TRIAL, "?"),
        experiment_id=run.info.experiment_id,
        parent=tags.get(MLFLOW_PARENT_RUN_ID, ""),
        version=registry.version_of_run(client, run_id),
        lineage=lineage,
    )


def cohort_accesses(client: MlflowClient, cohort: str) -> list[CohortAccess]:
    """Return every access to an external cohort in this store, by any model, oldest first.

    Accesses are read from runs, including deleted runs, and from the tags of experiments and registered models.

    Args:
        client: Client of the MLflow store.
        cohort: Digest of the set of images of the cohort.
    """
    found: dict[str, CohortAccess] = {}
    experiments = call_with_retry(lambda: list(client.search_experiments(view_type=ViewType.ALL)))
    for tags in [*(each.tags for each in experiments), *(each.tags for each in registered_models(client))]:
        for key, text in tags.items():
            if key.startswith(keys.VALIDATION_COPY):
                copy = json.loads(text)
                if copy.pop("cohort") == cohort:
                    found[copy["key"]] = CohortAccess(**copy)
    for run in search_all(client, f"tags.`{keys.COHORT}` = '{cohort}'", ViewType.ALL):
        tags = run.data.tags
        access = CohortAccess(
            when=tags[keys.VALIDATED],
            study=tags[keys.STUDY],
            uid=tags.get(keys.VALIDATED_UID, ""),
            trial=tags.get(keys.VALIDATED_TRIAL, "?"),
            model=tags.get(keys.VALIDATED_MODEL, ""),
            reason=tags.get(keys.VALIDATION_REASON, ""),
            run_id=run.info.run_id,
            key=tags[keys.VALIDATION_ID],
        )
        found.setdefault(access.key, access)
    return sorted(found.values(), key=lambda access: (access.when, access.key))


def log_cohort_access(
    client: MlflowClient, origin: ModelOrigin, cohort: str, reason: str, data: str, root: str
) -> LoggedCohortAccess:
    """Log an access to an external cohort. Must be called before anything is computed on its images.

    Args:
        client: Client of the MLflow store.
        origin: Origin of the validated model.
        cohort: Digest of the set of images of the cohort.
        reason: Reason that the user gave.
        data: Name of the cohort.
        root: Folder of the images of the cohort.

    Returns:
        The logged access. Its run, in state RUNNING, is a child of the run of the model's study.
    """
    earlier = cohort_accesses(client, cohort)
    number = len(earlier) + 1
    access = CohortAccess(
        when=datetime.now(UTC).isoformat(timespec="milliseconds"),
        study=origin.study,
        uid=origin.uid,
        trial=origin.trial,
        model=origin.model,
        reason=reason[: LONGEST_TAG // 4],
        run_id="",
        key=uuid.uuid4().hex[:12],
    )
    tags = {
        **({MLFLOW_PARENT_RUN_ID: origin.parent} if origin.parent else {}),
        MLFLOW_SOURCE_NAME: keys.VALIDATE_SOURCE,
        MLFLOW_USER: user_name(),
        keys.KIND: keys.VALIDATION,
        keys.STUDY: access.study,
        keys.VALIDATED_TRIAL: access.trial,
        keys.COHORT: cohort,
        keys.VALIDATED: access.when,
        keys.VALIDATED_UID: access.uid,
        keys.VALIDATED_MODEL: access.model,
        keys.VALIDATION_REASON: access.reason,
        keys.VALIDATION_ID: access.key,
        keys.VALIDATIONS: str(number),
    }

    def make_run() -> str:
        made = client.search_runs(
            [origin.experiment_id], f"tags.`{keys.VALIDATION_ID}` = '{access.key}'", max_results=1
        )
        if made:  # an earlier attempt created the run, but its response was lost
            return str(made[0].info.run_id)
        title = f"validation {number} on {data}"
        return str(client.create_run(origin.experiment_id, None, tags, title).info.run_id)

    run_id = call_with_retry(make_run)
    access = replace(access, run_id=run_id)
    _copy(client, origin, {**asdict(access), "cohort": cohort})
    source = Dataset(f"{data} external", cohort, "local", json.dumps({"uri": root}))
    context = InputTag(MLFLOW_DATASET_CONTEXT, keys.VALIDATION)
    call_with_retry(client.log_inputs, run_id, [DatasetInput(source, [context])])
    return LoggedCohortAccess(_TOKEN, run_id, cohort, [*earlier, access])


def _copy(client: MlflowClient, origin: ModelOrigin, access: dict[str, Any]) -> None:
    """Copy an access to the tags of the experiment and of the registered model, in case the run is deleted."""
    key, text = f"{keys.VALIDATION_COPY}{access['key']}", json.dumps(access)
    call_with_retry(client.set_experiment_tag, origin.experiment_id, key, text)
    if origin.version is not None:
        call_with_retry(client.set_registered_model_tag, origin.version.name, key, text)
