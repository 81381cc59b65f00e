"""Log each access to an external cohort before anything is computed on its images.

Each access is logged on a run, the experiment and the registered model, so that deleting one of them removes no access.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlflow.entities import Dataset, DatasetInput, InputTag, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME, MLFLOW_USER

from bhsearch.errors import MissingError, StudyError
from bhsearch.runtime.environment import user_name
from bhsearch.text import plural
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
class CohortContent:
    """Images and cases of a cohort, by which overlapping cohorts are recognised.

    Attributes:
        digest: Digest of the set of images.
        images: Digests of the pixels of the images.
        cases: Keys of the case names, which are the same for all spellings of a name; empty if the cases are unknown or
            synthetic.
    """

    digest: str
    images: frozenset[str]
    cases: frozenset[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the content as a JSON-able dictionary."""
        return {"digest": self.digest, "images": sorted(self.images), "cases": sorted(self.cases)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> CohortContent:
        """Restore the content from a dictionary of `to_dict`."""
        return cls(record["digest"], frozenset(record["images"]), frozenset(record["cases"]))


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
        cohort: Digest of the set of images of the accessed cohort.
        shared: What the accessed cohort shares with the cohort that is examined, such as `the same images` or `12 of 24
            images, 4 of 8 cases`; not stored.
    """

    when: str
    study: str
    uid: str
    trial: str
    model: str
    reason: str
    run_id: str
    key: str
    cohort: str
    shared: str = ""

    def __str__(self) -> str:
        which = f"{self.model}, " if self.model else ""
        shared = f" ({self.shared})" if self.shared else ""
        return f"{self.when}, {which}{self.study}, trial {self.trial}: {self.reason}{shared}"


@dataclass(frozen=True)
class EarlierAccesses:
    """Earlier accesses to images or cases of a cohort, by any model.

    Attributes:
        found: Accesses to cohorts that share an image or a case with this cohort, oldest first.
        n_unknown: Number of accesses to other cohorts whose images are no longer recorded.
    """

    found: list[CohortAccess]
    n_unknown: int


class LoggedCohortAccess:
    """Proof that an access to an external cohort was logged. Only `log_cohort_access` creates instances.

    Args:
        token: Private token of this module, which only `log_cohort_access` passes.
        run_id: Run on which the access is logged.
        cohort: Digest of the set of images of the cohort.
        accesses: All accesses to images or cases of the cohort so far, by any model, with this one as the last.
        n_unknown: Number of accesses to other cohorts whose images are no longer recorded.

    Raises:
        TypeError: If `token` is not the private token.
    """

    def __init__(
        self, token: object, run_id: str, cohort: str, accesses: Sequence[CohortAccess], n_unknown: int = 0
    ) -> None:
        if token is not _TOKEN:
            raise TypeError("A LoggedCohortAccess must come from log_cohort_access, which counts it.")
        self.run_id, self.cohort, self.accesses = run_id, cohort, accesses
        self._n_unknown = n_unknown

    @property
    def caveat(self) -> str:
        """A sentence about earlier accesses whose images are no longer recorded; empty if there are none."""
        if not self._n_unknown:
            return ""
        count = plural(self._n_unknown, "earlier validation")
        return f"The images of {count} in this store are no longer recorded, so they may be images of this cohort."


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


def earlier_accesses(client: MlflowClient, cohort: CohortContent) -> EarlierAccesses:
    """Return every access in this store to images or cases of a cohort, by any model.

    Accesses are read from runs, including deleted runs, and from the tags of experiments and registered models. The
    images of another cohort are listed in the run only. If the run was deleted permanently, the access is found only if
    the cohort had exactly the same images.

    Args:
        client: Client of the MLflow store.
        cohort: The cohort.
    """
    accesses, folders = _all_accesses(client)
    contents: dict[str, CohortContent] = {cohort.digest: cohort}
    for access in accesses:
        if access.cohort not in contents and access.key in folders:
            with suppress(MissingError):  # for example if the files of the run were deleted
                record = json.loads(model_files.read_text(folders[access.key], keys.COHORT_CONTENT))
                contents[access.cohort] = CohortContent.from_dict(record)
    found = []
    for access in accesses:
        content = contents.get(access.cohort)
        shared = content and _shared(cohort, content)
        if shared:
            found.append(replace(access, shared=shared))
    return EarlierAccesses(found, sum(access.cohort not in contents for access in accesses))


def _all_accesses(client: MlflowClient) -> tuple[list[CohortAccess], dict[str, str]]:
    """Return all accesses to cohorts, oldest first, and the artifact folder of each access whose run exists, by key."""
    found: dict[str, CohortAccess] = {}
    folders: dict[str, str] = {}
    experiments = call_with_retry(lambda: list(client.search_experiments(view_type=ViewType.ALL)))
    for tags in [*(each.tags for each in experiments), *(each.tags for each in registered_models(client))]:
        for key, text in tags.items():
            if key.startswith(keys.VALIDATION_COPY):
                copy = CohortAccess(**json.loads(text))
                found[copy.key] = copy
    for run in search_all(client, f"tags.`{keys.KIND}` = '{keys.VALIDATION}'", ViewType.ALL):
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
            cohort=tags[keys.COHORT],
        )
        found.setdefault(access.key, access)
        folders[access.key] = run.info.artifact_uri
    return sorted(found.values(), key=lambda access: (access.when, access.key)), folders


def _shared(cohort: CohortContent, other: CohortContent) -> str:
    """Return what two cohorts share, in numbers of the first one; empty if they share no image and no case."""
    if other.digest == cohort.digest:
        return "the same images"
    n_images, n_cases = len(cohort.images & other.images), len(cohort.cases & other.cases)
    if not n_images and not n_cases:
        return ""
    images = f"{n_images:,} of {plural(len(cohort.images), 'image')}"
    return f"{images}, {n_cases:,} of {plural(len(cohort.cases), 'case name')}" if cohort.cases else images


def log_cohort_access(
    client: MlflowClient, origin: ModelOrigin, cohort: CohortContent, reason: str, data: str, root: str
) -> LoggedCohortAccess:
    """Log an access to an external cohort. Must be called before anything is computed on its images.

    Args:
        client: Client of the MLflow store.
        origin: Origin of the validated model.
        cohort: Images and cases of the cohort, which are logged, too.
        reason: Reason that the user gave.
        data: Name of the cohort.
        root: Folder of the images of the cohort.

    Returns:
        The logged access. Its run, in state RUNNING, is a child of the run of the model's study.
    """
    earlier = earlier_accesses(client, cohort)
    number = len(earlier.found) + 1
    access = CohortAccess(
        when=datetime.now(UTC).isoformat(timespec="milliseconds"),
        study=origin.study,
        uid=origin.uid,
        trial=origin.trial,
        model=origin.model,
        reason=reason[: LONGEST_TAG // 4],
        run_id="",
        key=uuid.uuid4().hex[:12],
        cohort=cohort.digest,
    )
    tags = {
        **({MLFLOW_PARENT_RUN_ID: origin.parent} if origin.parent else {}),
        MLFLOW_SOURCE_NAME: keys.VALIDATE_SOURCE,
        MLFLOW_USER: user_name(),
        keys.KIND: keys.VALIDATION,
        keys.STUDY: access.study,
        keys.VALIDATED_TRIAL: access.trial,
        keys.COHORT: cohort.digest,
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
    _copy(client, origin, access)
    call_with_retry(client.log_dict, run_id, cohort.to_dict(), keys.COHORT_CONTENT)
    source = Dataset(f"{data} external", cohort.digest, "local", json.dumps({"uri": root}))
    context = InputTag(MLFLOW_DATASET_CONTEXT, keys.VALIDATION)
    call_with_retry(client.log_inputs, run_id, [DatasetInput(source, [context])])
    return LoggedCohortAccess(_TOKEN, run_id, cohort.digest, [*earlier.found, access], earlier.n_unknown)


def _copy(client: MlflowClient, origin: ModelOrigin, access: CohortAccess) -> None:
    """Copy an access to the tags of the experiment and of the registered model, in case the run is deleted."""
    key = f"{keys.VALIDATION_COPY}{access.key}"
    text = json.dumps({name: value for name, value in asdict(access).items() if name != "shared"})
    call_with_retry(client.set_experiment_tag, origin.experiment_id, key, text)
    if origin.version is not None:
        call_with_retry(client.set_registered_model_tag, origin.version.name, key, text)
