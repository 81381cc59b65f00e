"""Access to the MLflow model registry: versions, aliases, and the history of promotions."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS, MLFLOW_RUN_NOTE

from bhsearch.errors import MissingError, SettingsError, StudyError
from bhsearch.text import listed
from bhsearch.tracking import model_files, notes, serving
from bhsearch.tracking.keys import (
    ALIAS,
    DATA,
    FORCED,
    GATE,
    GATE_NUMBERS,
    GATE_REASON,
    LINEAGE,
    PROMOTION,
    TEST_RUN,
)
from bhsearch.tracking.requests import call_with_retry

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER, CHAMPION = "challenger", "champion"
LONGEST_TAG = 5000
_OF_THE_TEST = (GATE, GATE_REASON, GATE_NUMBERS, FORCED, ALIAS)  # tags copied from a version to the run of its test


@dataclass(frozen=True)
class Version:
    """A registered version.

    Attributes:
        name: Name of the registered model.
        number: Number of the version.
        run_id: Run of the sealed test of the version.
        tags: Tags of the version.
        aliases: Aliases of the version.
    """

    name: str
    number: str
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)
    aliases: tuple[str, ...] = field(default=(), compare=False)

    @property
    def uri(self) -> str:
        """MLflow URI of the version."""
        return f"models:/{self.name}/{self.number}"


def check_name(name: str, alias: str) -> None:
    """Check, before the sealed test is opened, that MLflow accepts a model name and an alias.

    Raises:
        SettingsError: If MLflow does not accept the name or the alias, or if the alias is `challenger`.
    """
    from mlflow.utils import validation

    if alias == CHALLENGER:
        raise SettingsError(
            f"--alias must not be {CHALLENGER!r}, which bhsearch gives to every new version. Choose another alias, "
            "such as champion."
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
            raise SettingsError(f"{option} {value!r} is not accepted by MLflow: {error}") from error


def make_model(client: MlflowClient, name: str, data: str) -> None:
    """Create a registered model if it does not exist.

    Args:
        client: Client of the MLflow store.
        name: Name of the registered model.
        data: Name of the data set.
    """

    def make() -> None:
        try:
            client.create_registered_model(name, {DATA: data}, notes.model_description(data))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    call_with_retry(make)


def create_version(
    client: MlflowClient,
    run_id: str,
    name: str,
    network: Any,
    requirements: list[str],
    metadata: dict[str, Any],
    files: Mapping[str, bytes],
    tags: Mapping[str, str],
) -> Version:
    """Log a model to the run of its test, register it as a new version, and give the version the alias `challenger`.

    Args:
        client: Client of the MLflow store.
        run_id: Run of the sealed test.
        name: Name of the registered model, which must exist; see `make_model`.
        network: The calibrated Keras model.
        requirements: pip requirements of the model.
        metadata: Metadata saved with the model: `threshold`, `classes`, ...
        files: Content of further files in the folder of the model, by name.
        tags: Tags of the version.
    """
    run = call_with_retry(client.get_run, run_id)
    # The caller may have selected another experiment, in which MLflow refuses to resume this run.
    call_with_retry(mlflow.set_experiment, experiment_id=run.info.experiment_id)

    def log() -> Any:
        _delete_models(client, run.info.experiment_id, run_id)  # models of an attempt whose response was lost
        with mlflow.start_run(run_id=run_id):
            return Model.log(
                artifact_path=None,
                name="model",
                flavor=sys.modules[serving.__name__],
                metadata=metadata,
                network=network,
                requirements=requirements,
                files=files,
            )

    logged = call_with_retry(log)

    attempts = itertools.count()

    def make_version() -> str:
        # From the second attempt on, the version may exist: the response to an earlier attempt may have been lost.
        made = version_of_run(client, run_id) if next(attempts) else None
        if made is not None:
            return made.number
        uri = f"models:/{logged.model_id}"
        fresh = client.create_model_version(name, uri, run_id, {**tags, TEST_RUN: run_id}, model_id=logged.model_id)
        return str(fresh.version)

    number = call_with_retry(make_version)
    call_with_retry(client.set_registered_model_alias, name, CHALLENGER, number)
    versions = json.dumps([{"name": name, "version": call_with_retry(client.get_model_version, name, number).version}])
    # The page of the model needs this tag to link to its version. Only `mlflow.register_model` sets it automatically.
    call_with_retry(client.set_logged_model_tags, logged.model_id, {MLFLOW_MODEL_VERSIONS: versions})
    return version_of(client, name, number)


def _delete_models(client: MlflowClient, experiment_id: str, run_id: str) -> None:
    for model in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        client.delete_logged_model(model.model_id)


def version_with_alias(client: MlflowClient, name: str, alias: str) -> Version | None:
    """Return the version that has an alias; None if no version has the alias.

    Raises:
        StudyError: If the store refuses the request.
        RunError: If the store stays unavailable.
    """

    def find() -> str | None:
        try:
            return str(client.get_model_version_by_alias(name, alias).version)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            # Databases return this code for a missing alias and for other errors, so the list of aliases decides.
            if error.error_code != "INVALID_PARAMETER_VALUE" or alias in _aliases(client, name):
                raise
            return None

    number = call_with_retry(find)
    return version_of(client, name, number) if number is not None else None


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """Return the version number of each alias of a registered model; empty if the model does not exist."""
    try:
        return {alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def version_of(client: MlflowClient, name: str, number: str) -> Version:
    """Return the version of a registered model with a given number."""
    found = call_with_retry(client.get_model_version, name, number)
    return Version(name, str(found.version), str(found.run_id), dict(found.tags), tuple(found.aliases))


def version_of_run(client: MlflowClient, run_id: str) -> Version | None:
    """Return the version that was registered from the run of a test; None if there is no version."""
    found = call_with_retry(client.search_model_versions, f"run_id = '{run_id}'", max_results=1)
    return version_of(client, found[0].name, str(found[0].version)) if found else None


def cut(tags: Mapping[str, str]) -> dict[str, str]:
    """Cut the values of tags to the length that MLflow accepts."""
    return {key: value[:LONGEST_TAG] for key, value in tags.items()}


def tag(client: MlflowClient, version: Version, key: str, value: str) -> None:
    """Set a tag of a version."""
    call_with_retry(client.set_model_version_tag, version.name, version.number, key, value[:LONGEST_TAG])


def describe(client: MlflowClient, version: Version, run_id: str, note: str, tags: Mapping[str, str]) -> None:
    """Set a Markdown description on a version and on the run of its test.

    The tags with the decision of the gate are copied to the run, because a version may be deleted.
    """
    call_with_retry(client.set_tag, run_id, MLFLOW_RUN_NOTE, note)
    call_with_retry(client.update_model_version, version.name, version.number, description=note)
    for key in _OF_THE_TEST:
        if key in tags:
            call_with_retry(client.set_tag, run_id, key, tags[key][:LONGEST_TAG])


def promote(
    client: MlflowClient,
    version: Version,
    alias: str,
    how: str,
    reason: str,
    numbers: Mapping[str, float],
    before: Version | None,
) -> None:
    """Give a version an alias, and add the promotion to the history of the registered model.

    A promoted version is no longer the challenger.

    Args:
        client: Client of the MLflow store.
        version: Version to promote.
        alias: Alias to set, such as `champion`.
        how: `gate` or `force`.
        reason: Reason stated by the gate or by the user.
        numbers: Numbers that the gate compared.
        before: Version that had this alias when the decision was made; None if none had it.

    Raises:
        StudyError: If another version has received the alias since the decision.
    """
    now = version_with_alias(client, version.name, alias)
    if (now.number if now else None) != (before.number if before else None):
        raise StudyError(
            f"Nothing was promoted: the alias {alias} of {version.name!r} has changed since the comparison. It was "
            f"{_called(before)} and is now {_called(now)}. Repeat the command to compare with the new version."
        )
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
    key = f"{PROMOTION}{len(history) + 1:04d}"
    call_with_retry(client.set_registered_model_tag, version.name, key, json.dumps(entry)[:LONGEST_TAG])
    call_with_retry(client.set_registered_model_alias, version.name, alias, version.number)
    if CHALLENGER in version_of(client, version.name, version.number).aliases:
        call_with_retry(client.delete_registered_model_alias, version.name, CHALLENGER)


def _called(version: Version | None) -> str:
    return f"version {version.number}" if version else "no version"


def promotions(client: MlflowClient, name: str) -> list[dict[str, Any]]:
    """Return the promotions of a registered model, oldest first."""
    tags = call_with_retry(client.get_registered_model, name).tags
    return [json.loads(tags[key]) for key in sorted(tags) if key.startswith(PROMOTION)]


def lineage(client: MlflowClient, version: Version) -> dict[str, Any]:
    """Return the images that a version was developed and tested on.

    Returns:
        For `development` and `test`: `case` and `pixels_digest` of each image.

    Raises:
        MissingError: If the lineage of the version is not stored.
        RunError: If the store stays unavailable.
    """
    try:
        root = call_with_retry(client.get_run, version.run_id).info.artifact_uri
        return dict(json.loads(model_files.read_text(root, LINEAGE)))
    except MissingError as error:
        raise MissingError(
            f"Cannot compare with the champion, version {version.number} of {version.name!r}, because its development "
            "data are unknown: it was not registered by bhsearch, or its run was deleted. Register under another name "
            "with --name."
        ) from error


def resolve(client: MlflowClient, uri: str | None, alias: str = CHAMPION) -> str:
    """Return the URI of a model given by name or URI; by default of the only champion in the store.

    An alias is replaced by the number of the version that has it, since aliases move and predictions must name the
    version that made them.

    Args:
        client: Client of the MLflow store.
        uri: `NAME`, `NAME@ALIAS` or `NAME/VERSION`, with or without the prefix `models:/`. Any other URI and the path
            of a folder are returned unchanged. None for the only model with `alias`.
        alias: Alias to use if `uri` contains neither alias nor version.

    Raises:
        MissingError: If the model or the alias does not exist.
        StudyError: If `uri` is None and the number of models with the alias is not 1.
    """
    if uri is None:
        found = [model for model in registered_models(client) if alias in model.aliases]
        if len(found) != 1:
            names = [f"models:/{model.name}@{alias}" for model in found]
            what = f"has {len(found)} models" if found else "has no model"
            there = f":\n{listed(names)}\nChoose one" if found else ". Choose a model"
            raise StudyError(f"The MLflow store {what} with the alias {alias!r}{there} with --model.")
        return f"models:/{found[0].name}/{found[0].aliases[alias]}"
    named = uri.removeprefix("models:/")
    if named == uri and (":" in uri or Path(uri).exists()):
        return uri
    name, _, wanted = named.partition("@")
    if "/" in named:
        if not re.fullmatch(r"[^/@]+/[1-9]\d*", named):
            return uri
        name, _, number = named.partition("/")
        try:
            call_with_retry(client.get_model_version, name, number)
        except MissingError as error:
            raise _no_such(client, name, f"/{number}") from error
        return f"models:/{named}"
    if not wanted and named.startswith("m-") and uri != named:  # models:/m-..., a model that is not registered
        return uri
    version = version_with_alias(client, name, wanted or alias)
    if version is None:
        raise _no_such(client, name, f"@{wanted or alias}")
    return version.uri


def _no_such(client: MlflowClient, name: str, which: str) -> MissingError:
    models = {model.name: sorted(model.aliases) for model in registered_models(client)}
    aliases = models.get(name, [])
    known = [f"models:/{name}@{each}" for each in aliases]
    known = known or [f"models:/{each}@{has}" for each, there in models.items() for has in there]
    there = (
        f"there are:\n{listed(known)}"
        if known
        else "no model is registered. Register one with `python -m bhsearch.register`."
    )
    return MissingError(f"The MLflow store has no model {name}{which}; {there}")


def registered_models(client: MlflowClient) -> list[Any]:
    """Return the registered models that bhsearch created."""

    def search() -> list[Any]:
        found, token = [], None
        while True:
            page = client.search_registered_models(page_token=token)
            found += [model for model in page if DATA in model.tags]
            token = page.token
            if not token:
                return found

    return call_with_retry(search)
