"""Open the MLflow store, and the experiment of a data set in this store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from bhsearch.errors import StudyError
from bhsearch.runtime import cache
from bhsearch.runtime.store_schema import SCHEMA, require_schema
from bhsearch.tracking import keys
from bhsearch.tracking.store_uri import VARIABLE, check_uri, host_of, shown, sqlite_file, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

_EMPTY = "empty.db"  # database of MLflow in the cache
# Without this tag, the user interface may show its pages for language models.
_KIND = {"mlflow.experimentKind": "custom_model_development"}


def check_store() -> None:
    """Check that MLflow can use the store address and the working directory. Does not import MLflow.

    Raises:
        StudyError: If the address is invalid, if `mlruns/` contains runs of MLflow's old file store, or if `mlflow.db`
            cannot be written.
    """
    uri = tracking_uri()
    if uri:
        check_uri(uri)
        return
    old = next(Path("mlruns").glob("[0-9]*/meta.yaml"), None)
    if old is not None:
        raise StudyError(
            f"This folder contains runs of MLflow's old file store ({old}), with which `mlflow ui` fails. Move the "
            "runs to a database with `mlflow migrate-filestore`, or use another working directory."
        )
    if not Path("mlflow.db").exists() and not os.access(Path.cwd(), os.W_OK):
        raise StudyError(
            f"Cannot create MLflow's database {Path.cwd() / 'mlflow.db'}: the folder is not writable. Set "
            "MLFLOW_TRACKING_URI=sqlite:////FOLDER/mlflow.db, or use another working directory."
        )


def require_store() -> None:
    """Check that the store exists, because MLflow would create a missing database. Does not import MLflow.

    Raises:
        StudyError: If the database file of the store does not exist, or for a reason of `check_store`.
    """
    check_store()
    file = store_file()
    if file is not None and not file.exists():
        where = (
            f"{VARIABLE} is set to {file}, which does not exist" if tracking_uri() else f"{Path.cwd()} has no mlflow.db"
        )
        raise StudyError(
            f"No MLflow store was found: {where}. Use the working directory in which the study was run, set "
            f"{VARIABLE}, or run a study with `python -m bhsearch.run`."
        )


def open_client(patient: bool = False) -> MlflowClient:
    """Return a client of the store named by `MLFLOW_TRACKING_URI`, by default `mlflow.db` in the working directory.

    Args:
        patient: Whether to wait for an unavailable store, for at most `BHSEARCH_PATIENCE` seconds.

    Raises:
        StudyError: If the store cannot be opened.
        RunError: If `patient` is True and the store stays unavailable.
    """
    import logging

    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    from bhsearch.tracking.requests import call_with_retry, is_unreachable, reason_of

    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # MLflow also logs a traceback for every error that it raises.
    logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)
    # MLflow's own retries take minutes per call, and would hide that a server is unavailable.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # To print the address of each run that ends, MLflow would read the run from the server again.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

    def opened() -> MlflowClient:
        uri = mlflow.get_tracking_uri()
        with cache.interprocess_lock(uri), _no_stray_folder(uri):
            _create_database(uri)
            client = mlflow.MlflowClient()
            client.search_experiments(max_results=1)
        return client

    try:
        return call_with_retry(opened) if patient else opened()
    except (MlflowException, SQLAlchemyError, ImportError, OSError, StudyError) as error:
        cause = error.__cause__ if isinstance(error, StudyError) and error.__cause__ is not None else error
        place = shown(mlflow.get_tracking_uri())
        if is_unreachable(cause):
            raise StudyError(
                f"The MLflow server {place} cannot be reached. Start it, or set {VARIABLE} to another store."
            ) from cause
        raise StudyError(f"Cannot open the MLflow store {place}: {reason_of(cause)}") from cause


def is_on_server() -> bool:
    """Return whether runs and artifacts are sent to a server and need no local disk space. Does not import MLflow."""
    return tracking_uri().startswith(("http:", "https:"))


def store_file() -> Path | None:
    """Return the file of the store, which other machines do not reach; None for servers. Does not import MLflow."""
    uri = tracking_uri()
    return sqlite_file(uri) if uri else Path("mlflow.db").absolute()


def tracking_host() -> str:
    """Return the host of the store's server; empty for a file. Does not import MLflow."""
    return "" if store_file() else host_of(tracking_uri())


def artifact_folder(uri: str | None = None) -> Path | None:
    """Return the artifact folder of a local database: `mlruns` in the folder of the database; None for other stores.

    Args:
        uri: Address of the store; None for the address in `MLFLOW_TRACKING_URI`.
    """
    file = _file_of(uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    return Path(unquote(file)).absolute().parent / "mlruns" if file else None


def _file_of(uri: str) -> str:
    """Return the percent-encoded path of a local database; an empty string for other stores."""
    return uri.removeprefix("sqlite:///").partition("?")[0] if uri.startswith("sqlite:///") else ""


def _create_database(uri: str) -> None:
    """Create the database of an SQLite store under another name, and rename it when it is complete.

    MLflow creates tables one by one without a transaction, and takes seconds. If the process were killed meanwhile,
    MLflow could neither open nor complete the database. Therefore an empty database is kept in the cache, and copied.
    """
    file = sqlite_file(uri)
    if file is None or str(file) == ":memory:" or file.exists() or not file.parent.is_dir():
        return
    empty = cache.get_or_create("databases", {"mlflow": metadata.version("mlflow")}, _initialise)
    draft = file.with_name(f"{file.name}.creating")
    try:
        shutil.copyfile(empty / _EMPTY, draft)  # replaces that of a process that was killed
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _initialise(folder: Path) -> None:
    """Create an empty database of MLflow in a folder."""
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import URL, create_engine

    engine = create_engine(URL.create("sqlite", database=str(folder / _EMPTY)))
    try:
        _initialize_tables(engine)  # type: ignore[no-untyped-call]
    finally:
        engine.dispose()


@contextmanager
def _no_stray_folder(uri: str) -> Iterator[None]:
    """Remove the folder with the percent-encoded name (`a%20b`) that MLflow creates when it opens a database."""
    file = Path(_file_of(uri))
    stray = [folder for folder in file.parents if "%" in str(folder) and not folder.exists()]
    try:
        yield
    finally:
        for folder in stray:
            with suppress(OSError):
                folder.rmdir()


def open_experiment(client: MlflowClient, name: str) -> str:
    """Return the id of an experiment, which is created if it does not exist.

    For a local database, the artifact location is set to an absolute path, because MLflow's default is relative to the
    working directory. A server chooses the artifact location itself.

    Raises:
        StudyError: If the experiment is deleted, or contains studies of another schema.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage != "active":
            raise deleted_experiment(name, str(found.experiment_id))
        return _of_this_schema(client, found)
    folder = artifact_folder(client.tracking_uri)
    try:
        location = (folder / name).as_uri() if folder is not None else None
        tags = _KIND | {keys.SCHEMA: str(SCHEMA)}
        return str(client.create_experiment(name, artifact_location=location, tags=tags))
    except MlflowException:  # another process created the experiment first
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return _of_this_schema(client, found)


def require_experiment_schema(experiment: Experiment) -> None:
    """Check that the studies of an experiment have the schema of this version of bhsearch.

    Raises:
        StudyError: If the experiment has another schema, or no schema number.
    """
    require_schema(experiment.tags.get(keys.SCHEMA), f"The MLflow experiment {experiment.name!r}")


def _of_this_schema(client: MlflowClient, experiment: Experiment) -> str:
    """Return the id of an experiment after checking its schema.

    An experiment without a schema number and without studies was created by a person, and receives the current number.

    Raises:
        StudyError: If the schema is not the current one.
    """
    from mlflow.entities import ViewType

    experiment_id = str(experiment.experiment_id)
    if keys.SCHEMA not in experiment.tags:
        query = f"tags.`{keys.UID}` != ''"
        has_studies = bool(client.search_runs([experiment_id], query, ViewType.ALL, max_results=1))
        if not has_studies and not any(key.startswith(keys.ACCESS_COPY) for key in experiment.tags):
            client.set_experiment_tag(experiment_id, keys.SCHEMA, str(SCHEMA))
            return experiment_id
    require_experiment_schema(experiment)
    return experiment_id


def deleted_experiment(name: str, experiment_id: str) -> StudyError:
    """Return the error for a deleted experiment; the message contains the command that restores the experiment."""
    return StudyError(
        f"The MLflow experiment {name!r} is deleted. Restore it with `mlflow experiments restore --experiment-id "
        f"{experiment_id}`, or in MLflow's user interface."
    )
