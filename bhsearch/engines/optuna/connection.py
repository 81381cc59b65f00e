"""Connections to Optuna's storage, and retries while the database is not available."""

from __future__ import annotations

import functools
import os
import sqlite3
import time
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError

from bhsearch.engines.optuna.url import check_storage, scrubbed, sqlite_file
from bhsearch.errors import LostStorageError, PlaceError, RunError, StudyError

P = ParamSpec("P")
R = TypeVar("R")
_AGAIN_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)  # between attempts; the last value repeats
PATIENCE_SECONDS = 300.0
_MADE: set[Path] = set()  # files of storages that this process created
_BEAT_SECONDS, _GRACE_SECONDS = 20, 90


def retry_while_unavailable(call: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that it is retried while the storage is not available.

    An attempt may have succeeded although its answer was lost, so the function must be idempotent.

    Raises:
        PlaceError: If the disk of the storage is full.
        RunError: If the storage is not available for `PATIENCE_SECONDS`.
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
    """Return whether the connection failed, rather than the statement."""
    cause: Any = error if isinstance(error, DBAPIError) else error.__cause__
    # PendingRollbackError: after a lost connection, Optuna commits a transaction that has failed.
    return isinstance(cause, (OperationalError, InterfaceError, PendingRollbackError)) or bool(
        getattr(cause, "connection_invalidated", False)
    )


def _reason(error: BaseException) -> str:
    """Return the driver's message; SQLAlchemy's contains the statement as well."""
    cause = error if isinstance(error, DBAPIError) else error.__cause__ or error
    return (str(getattr(cause, "orig", None) or cause).splitlines() or [repr(cause)])[0]


def connect(url: str) -> optuna.storages.BaseStorage:
    """Open a storage; create it if it does not exist.

    Args:
        url: Database URL.

    Raises:
        SettingsError: If it is a database in memory.
        StudyError: If it cannot be opened.
    """
    check_storage(url)
    file = sqlite_file(url)
    is_new = file is not None and not file.exists()
    try:
        storage = _open(url)
    except (SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        reason = (str(getattr(error, "orig", None) or error).splitlines() or [repr(error)])[0]
        hint = _hint(url, error)
        shown = f"{scrubbed(reason, url)}{hint and '.'}{hint}"
        # An error that held a part of the password is not kept either, lest a traceback shows it.
        raise StudyError(f"--storage must be a database that can be opened, but got: {shown}") from (
            error if shown.startswith(reason) else None
        )
    if is_new and file is not None:
        _MADE.add(file.resolve())
    return storage


def _hint(url: str, error: Exception) -> str:
    """Return a sentence of advice, preceded by a blank; empty if there is none."""
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
    """Open a storage that another process has opened; retries while it is not available."""
    return _open_patiently(url)


def discard_if_new(storage: optuna.storages.BaseStorage) -> None:
    """Delete the file of a storage if this process created it and no study is in it.

    The caller must hold a lock: no other process may be about to create a study there.
    """
    engine = getattr(getattr(storage, "_backend", storage), "engine", None)
    file = sqlite_file(str(engine.url)) if engine is not None else None
    if engine is None or file is None or file.resolve() not in _MADE or optuna.get_all_study_names(storage):
        return
    storage.remove_session()
    engine.dispose()
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    _MADE.discard(file.resolve())


def _open(url: str) -> optuna.storages.BaseStorage:
    is_sqlite = make_url(url).get_backend_name() == "sqlite"
    file = sqlite_file(url)
    in_wal = file is not None and _in_wal(file)
    # A server may be reached from other hosts, where a number of a process says nothing.
    every, grace = (None, None) if is_sqlite else (_BEAT_SECONDS, _GRACE_SECONDS)
    pool = {"pool_pre_ping": True}  # a connection that a server closed is found out before it is used
    escaped = url.replace("{", "{{").replace("}", "}}")  # Optuna fills in a template
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats; our bounds on Optuna hold them
        storage = optuna.storages.RDBStorage(escaped, pool, heartbeat_interval=every, grace_period=grace)
    if in_wal:
        # A commit then waits for the log and not for the disk's own buffer: half the time a trial, and what a
        # killed process had committed is still there.
        @event.listens_for(storage.engine, "connect")
        def _(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA synchronous=NORMAL")

    if file is not None:
        storage.engine.dispose()
        guard = _Guard(file)
        event.listen(storage.engine, "do_connect", guard.check)  # else SQLite would make an empty file in its place
        event.listen(storage.engine, "checkout", guard.check)
    return storage


_open_patiently = retry_while_unavailable(_open)


class _Guard:
    """Detects that the file of a storage was deleted or replaced, which an open connection does not notice.

    Args:
        file: The existing file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._identity = self._now()

    def check(self, *_: Any) -> None:
        """Raise `LostStorageError` if the file is no longer the same; otherwise takes a microsecond."""
        now = self._now()
        if now != self._identity:
            what = "deleted" if now is None else "replaced by another file"
            raise LostStorageError(
                f"The storage of the study must stay where it is while a command uses it, but {self._file} was {what}."
            )

    def _now(self) -> tuple[int, int] | None:
        try:
            found = self._file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:  # a network file system that does not answer: nothing is known
            return getattr(self, "_identity", None)
        return found.st_dev, found.st_ino


def _in_wal(file: Path) -> bool:
    """Return whether a file uses a write-ahead log; a new file does if its file system supports it.

    The index of the log is memory shared between processes, which many network file systems do not support. SQLite
    notices that at the first read, and every later read fails until the log is disabled.
    """
    fresh = not file.exists() or file.stat().st_size == 0
    try:
        with closing(sqlite3.connect(file)) as connection:
            if fresh:
                connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("SELECT * FROM sqlite_master").fetchone()
            return bool(connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal")
    except sqlite3.Error as error:
        if "locked" in str(error) or not _has_log(file):
            return False  # in use, or not to be opened at all, which the storage says itself
    with suppress(sqlite3.Error), closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # a single process needs no shared index
        connection.execute("PRAGMA journal_mode=DELETE")
        Path(f"{file}-shm").unlink(missing_ok=True)  # the index that could not be shared
    return False


def _has_log(file: Path) -> bool:
    """Return whether the header of a database states that it has a write-ahead log."""
    try:
        with file.open("rb") as stream:
            return stream.read(20)[18:20] == b"\2\2"
    except OSError:
        return False
