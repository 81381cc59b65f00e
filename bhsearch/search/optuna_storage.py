"""Optuna's storage: opened, and waited for while its server is away or another process holds its file."""

from __future__ import annotations

import functools
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError

from bhsearch.errors import PlaceError, RunError, StudyError
from bhsearch.search.storage_url import scrubbed

P = ParamSpec("P")
R = TypeVar("R")
_AGAIN_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)  # between attempts; the last one from then on
PATIENCE_SECONDS = 300.0
_BEAT_SECONDS, _GRACE_SECONDS = 20, 90


def patient(call: Callable[P, R]) -> Callable[P, R]:
    """Do a call again while the storage is away.

    An attempt may have been carried out though its answer was lost, so the call must be one that can be repeated.

    Raises:
        PlaceError: If the storage's disk is full.
        RunError: If it stays away.
    """

    @functools.wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        started, attempt = time.monotonic(), 0
        while True:
            try:
                return call(*args, **kwargs)
            except (StorageInternalError, DBAPIError) as error:
                reason = _reason(error)
                if "disk is full" in reason:
                    raise PlaceError(
                        "There must be room for the storage of the study, but the disk is full. "
                        "Free some space, and the same command goes on."
                    ) from error
                if not _is_away(error):
                    raise
                if time.monotonic() > started + PATIENCE_SECONDS:
                    raise RunError(
                        f"The storage of the study must be there, but has been away for {PATIENCE_SECONDS:.0f} s "
                        f"({reason}). What is finished is kept; the same command goes on."
                    ) from error
            time.sleep(_AGAIN_SECONDS[min(attempt, len(_AGAIN_SECONDS) - 1)])
            attempt += 1

    return wrapped


def _is_away(error: BaseException) -> bool:
    """Whether it is the connection that failed, and not the statement."""
    cause: Any = error if isinstance(error, DBAPIError) else error.__cause__
    # The last: after a connection was lost, Optuna commits what could not be carried out.
    return isinstance(cause, (OperationalError, InterfaceError, PendingRollbackError)) or bool(
        getattr(cause, "connection_invalidated", False)
    )


def _reason(error: BaseException) -> str:
    """The driver's own sentence; SQLAlchemy's holds the statement, too."""
    cause = error if isinstance(error, DBAPIError) else error.__cause__ or error
    return (str(getattr(cause, "orig", None) or cause).splitlines() or [repr(cause)])[0]


def connect(url: str) -> optuna.storages.BaseStorage:
    """Open a storage, and make it where it is new.

    Raises:
        StudyError: If it cannot be opened.
    """
    try:
        return _open(url)
    except (SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        reason = (str(getattr(error, "orig", None) or error).splitlines() or [repr(error)])[0]
        hint = _hint(url, error)
        shown = f"{scrubbed(reason, url)}{hint and '.'}{hint}"
        # An error that held a part of the password is not kept either, lest a traceback shows it.
        raise StudyError(f"--storage must be a database that can be opened, but got: {shown}") from (
            error if shown.startswith(reason) else None
        )


def _hint(url: str, error: Exception) -> str:
    """What may help, as a sentence with a blank before it; empty where nothing is known."""
    scheme = url.partition(":")[0]
    if scheme.startswith("postgres") and (isinstance(error, ImportError) or scheme != "postgresql+psycopg"):
        return " PostgreSQL needs the extra bhsearch[postgres] and a URL as postgresql+psycopg://USER@HOST/NAME."
    if scheme.startswith("sqlite"):
        file = Path(url.partition(":///")[2].partition("?")[0]).absolute()
        if not file.parent.is_dir():
            return f" The folder of {file} does not exist."
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            return (
                f" {file if file.exists() else file.parent} cannot be written: give --storage "
                f"sqlite:////FOLDER/{file.name} with a folder that can be."
            )
    return ""


def reconnect(url: str) -> optuna.storages.BaseStorage:
    """Open a storage that another process has open: it is waited for while it is away."""
    return _open_patiently(url)


def _open(url: str) -> optuna.storages.BaseStorage:
    is_file = make_url(url).get_backend_name() == "sqlite"
    # A server may be reached from other hosts, where a number of a process says nothing.
    every, grace = (None, None) if is_file else (_BEAT_SECONDS, _GRACE_SECONDS)
    pool = {"pool_pre_ping": True}  # a connection that a server closed is found out before it is used
    escaped = url.replace("{", "{{").replace("}", "}}")  # Optuna fills in a template
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats; our bounds on Optuna hold them
        storage = optuna.storages.RDBStorage(escaped, pool, heartbeat_interval=every, grace_period=grace)
    if is_file:
        # A commit then waits for the log and not for the disk's own buffer: half the time a trial, and what a
        # killed process had committed is still there.
        @event.listens_for(storage.engine, "connect")
        def _(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

        storage.engine.dispose()
    return storage


_open_patiently = patient(_open)
