"""The MLflow store: which one it is, that it can be used, and the experiment of a data set in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from bhsearch.data.store import alone
from bhsearch.errors import StudyError

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Without it the user interface guesses, and may show pages for language models.
_KIND = {"mlflow.experimentKind": "custom_model_development"}


def check_store() -> None:
    """Refuse a working directory that MLflow itself would fail in; needs no MLflow, and so costs nothing.

    Raises:
        StudyError: If `mlruns/` holds runs of MLflow's old file store, or there can be no store.
    """
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return
    old = next(Path("mlruns").glob("[0-9]*/meta.yaml"), None)
    if old is not None:
        raise StudyError(
            f"MLflow must keep its runs in a database, but {old} belongs to its old file store, and `mlflow ui` would "
            "fail here. Move the old runs with `mlflow migrate-filestore`, or work in another folder."
        )
    if not Path("mlflow.db").exists() and not os.access(Path.cwd(), os.W_OK):
        raise StudyError(
            f"MLflow needs a place for its runs, but {Path.cwd() / 'mlflow.db'} cannot be written. Name a store with "
            "MLFLOW_TRACKING_URI=sqlite:////FOLDER/mlflow.db, or work in another folder."
        )


def require_store() -> None:
    """Refuse a working directory without a store, rather than make an empty one there; needs no MLflow.

    Raises:
        StudyError: If there is none.
    """
    check_store()
    if not os.environ.get("MLFLOW_TRACKING_URI") and not Path("mlflow.db").exists():
        raise StudyError(
            f"There must be an MLflow store, but {Path.cwd()} has no mlflow.db. Make a study with `python -m "
            "bhsearch.run`, go to the folder where it was made, or name a store in MLFLOW_TRACKING_URI."
        )


def open_client() -> MlflowClient:
    """A client of the store that `MLFLOW_TRACKING_URI` names, else of `mlflow.db` in the working directory.

    Raises:
        StudyError: If the store cannot be opened.
    """
    import logging

    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # MLflow's own patience with a server, minutes a call, would hide from us that it is away.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        with alone(mlflow.get_tracking_uri()), _no_stray_folder(mlflow.get_tracking_uri()):
            client = mlflow.MlflowClient()
            client.search_experiments(max_results=1)
        return client
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0].replace(mlflow.get_tracking_uri(), _place())
        raise StudyError(f"The MLflow store must be one that can be opened, but {_place()} cannot: {reason}") from error


def is_away(error: BaseException) -> bool:
    """Whether an error says that the store cannot be reached or cannot answer now, so that it may later."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, StudyError) and error.__cause__ is not None:
        return is_away(error.__cause__)
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()  # type: ignore[no-untyped-call]
        return bool(status >= 500 or status == 429)
    if isinstance(error, OperationalError):
        return not any(word in str(error) for word in ("disk is full", "readonly", "no such table"))
    return isinstance(error, (RequestException, ConnectionError, TimeoutError))


def _place() -> str:
    """The store without a password in it."""
    import mlflow
    from sqlalchemy.engine import make_url

    uri = mlflow.get_tracking_uri()
    try:
        return make_url(uri).render_as_string(hide_password=True)
    except ValueError:
        return uri.rsplit("@", 1)[-1]


def artifact_folder(uri: str | None = None) -> Path | None:
    """Folder of the artifacts of a local database: beside it. None where the store itself says where they go.

    Args:
        uri: Of the store; that of the environment where None.
    """
    file = _file_of(uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    return Path(unquote(file)).absolute().parent / "mlruns" if file else None


def _file_of(uri: str) -> str:
    """Path of a local database as it stands in its URI: percent-encoded. Empty for another store."""
    return uri.removeprefix("sqlite:///").partition("?")[0] if uri.startswith("sqlite:///") else ""


@contextmanager
def _no_stray_folder(uri: str) -> Iterator[None]:
    """Around opening a store: MLflow makes the folder of its database under its encoded name, too (`a%20b`)."""
    file = Path(_file_of(uri))
    stray = [folder for folder in file.parents if "%" in str(folder) and not folder.exists()]
    try:
        yield
    finally:
        for folder in stray:
            with suppress(OSError):
                folder.rmdir()


def open_experiment(client: MlflowClient, name: str) -> str:
    """The id of an experiment, made where it is missing.

    A local database writes artifact paths relative to the working directory unless it is told a whole one; a server
    knows better where its artifacts go.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage != "active":
            raise StudyError(
                f"The MLflow experiment {name!r} must be active, but it is deleted. Restore it in the user interface."
            )
        return str(found.experiment_id)
    folder = artifact_folder(client.tracking_uri)
    try:
        location = (folder / name).as_uri() if folder is not None else None
        return str(client.create_experiment(name, artifact_location=location, tags=_KIND))
    except MlflowException:  # another process was quicker
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)
