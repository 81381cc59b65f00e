"""Connections to Optuna's storage, and retries while the database is not available."""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError

from bhsearch.engines.optuna.storages.database import Database
from bhsearch.engines.optuna.storages.guard import FileGuard
from bhsearch.engines.optuna.storages.heartbeats import BEAT_SECONDS, GRACE_SECONDS
from bhsearch.engines.optuna.storages.journal import JournalFile, open_journal
from bhsearch.engines.optuna.storages.url import check_storage, journal_file, scrubbed, sqlite_file, storage_file
from bhsearch.errors import PlaceError, RunError, StudyError

P = ParamSpec("P")
R = TypeVar("R")
_AGAIN_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)  # between attempts; the last value repeats
PATIENCE_SECONDS = 300.0
_MADE: set[Path] = set()  # database files that this process created


def retry_while_unavailable(call: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that it is retried while the storage is not available.

    The function must be idempotent, because the database may have executed a call whose response was lost.

    Raises:
        PlaceError: If the disk of the storage is full, or its database is read-only.
        RunError: If the storage is not available for `PATIENCE_SECONDS`.
    """

    @functools.wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        started, attempt = time.monotonic(), 0
        while True:
            try:
                with explain_unwritable():
                    return call(*args, **kwargs)
            except (StorageInternalError, DBAPIError) as error:
                reason = _reason(error)
                if not _is_away(error):
                    raise
                if time.monotonic() > started + PATIENCE_SECONDS:
                    raise RunError(
                        f"The study's database has been unavailable for {PATIENCE_SECONDS:.0f} s ({reason}). Finished "
                        "trials are kept; repeat the command to continue the study when the database is available "
                        "again."
                    ) from error
            time.sleep(_AGAIN_SECONDS[min(attempt, len(_AGAIN_SECONDS) - 1)])
            attempt += 1

    return wrapped


@contextmanager
def explain_unwritable() -> Iterator[None]:
    """Raise PlaceError if the block fails because the database cannot be written, which no retry would change."""
    try:
        yield
    except (StorageInternalError, DBAPIError) as error:
        reason = _reason(error)
        if "disk is full" in reason:
            raise PlaceError(
                "The disk with the study's database is full. Free some space, and repeat the command to continue the "
                "study."
            ) from error
        if "readonly database" in reason:
            raise PlaceError(
                "The study's database is read-only. Give write permission on its folder and its files, which include "
                "those that end in -wal and -shm, or use another database with --storage."
            ) from error
        raise


def _is_away(error: BaseException) -> bool:
    """Return whether an error means that the connection failed, rather than the SQL statement."""
    cause: Any = error if isinstance(error, DBAPIError) else error.__cause__
    # PendingRollbackError occurs when Optuna commits a failed transaction after the connection was lost.
    return isinstance(cause, (OperationalError, InterfaceError, PendingRollbackError)) or bool(
        getattr(cause, "connection_invalidated", False)
    )


def _reason(error: BaseException) -> str:
    """Return the first line of the driver's error message, without the SQL statement that SQLAlchemy adds."""
    cause = error if isinstance(error, DBAPIError) else error.__cause__ or error
    return (str(getattr(cause, "orig", None) or cause).splitlines() or [repr(cause)])[0]


def connect(url: str) -> optuna.storages.BaseStorage:
    """Open a storage; create it if it does not exist.

    Args:
        url: Database URL, or the path of a journal; see `check_storage`.

    Raises:
        SettingsError: If the URL is that of an in-memory database.
        StudyError: If the database or the journal cannot be opened.
    """
    check_storage(url)
    file = storage_file(url)
    is_new = file is not None and not file.exists()
    try:
        storage = _open(url)
    except (SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        reason = (str(getattr(error, "orig", None) or error).splitlines() or [repr(error)])[0]
        hint = _hint(url, error)
        shown = f"{scrubbed(reason, url)}{hint and '.'}{hint}"
        # If the error message contained a part of the password, drop the cause, which a traceback would show.
        raise StudyError(f"Cannot open the database in --storage: {shown}") from (
            error if shown.startswith(reason) else None
        )
    if is_new and file is not None:
        _MADE.add(file.resolve())
    return storage


def _hint(url: str, error: Exception) -> str:
    """Return a sentence of advice with a leading space; empty if no advice is known for this error."""
    scheme = url.partition(":")[0]
    if "://" not in url:
        return " Use a URL, such as sqlite:///optuna.db."
    if scheme.startswith("postgres") and (isinstance(error, ImportError) or scheme != "postgresql+psycopg"):
        return " For PostgreSQL, install bhsearch[postgres], and use a URL such as postgresql+psycopg://USER@HOST/NAME."
    if scheme.startswith("sqlite"):
        file = Path(url.partition(":///")[2].partition("?")[0]).absolute()
        if not file.parent.is_dir():
            return f" The folder of {file} does not exist."
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            return (
                f" {file if file.exists() else file.parent} is not writable; use a writable folder: --storage "
                f"sqlite:////FOLDER/{file.name}."
            )
    return ""


def reconnect(url: str) -> optuna.storages.BaseStorage:
    """Open an existing storage, with retries while it is not available."""
    return _open_patiently(url)


def discard_if_new(storage: optuna.storages.BaseStorage) -> None:
    """Delete the file of a storage if this process created the file and it contains no study.

    The caller must hold a lock, so that no other process creates a study in the storage at the same time.
    """
    backend: Any = getattr(storage, "_backend", storage)
    file = backend.path if isinstance(backend, JournalFile) else sqlite_file(str(backend.engine.url))
    if file is None or file.resolve() not in _MADE or optuna.get_all_study_names(storage):
        return
    if not isinstance(backend, JournalFile):
        storage.remove_session()
        backend.engine.dispose()
    for suffix in ("", "-wal", "-shm", "-journal", ".lock"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    _MADE.discard(file.resolve())


def _open(url: str) -> optuna.storages.BaseStorage:
    journal = journal_file(url)
    if journal is not None:
        return open_journal(journal)
    is_sqlite = make_url(url).get_backend_name() == "sqlite"
    file = sqlite_file(url)
    in_wal = file is not None and _in_wal(file)
    # A database server may have clients on other hosts, where a process id is meaningless, so heartbeats are needed.
    every, grace = (None, None) if is_sqlite else (BEAT_SECONDS, GRACE_SECONDS)
    # A connection that the server has closed is detected before it is used. Each process keeps one connection
    # open, since the number of connections to a server limits the number of workers.
    pool = {"pool_pre_ping": True, "pool_size": 1}
    escaped = url.replace("{", "{{").replace("}", "}}")  # Optuna passes the URL through `str.format`
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats are stable within the pinned Optuna versions
        with _keep_loggers():
            storage = Database(escaped, pool, heartbeat_interval=every, grace_period=grace)
    if in_wal:
        # Commits write the log without waiting for the disk to flush, which halves the storage time per trial.
        # Commits of a process that is killed later are not lost.
        @event.listens_for(storage.engine, "connect")
        def _(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA synchronous=NORMAL")

    if file is not None:
        storage.engine.dispose()
        guard = FileGuard(file, "database")
        event.listen(storage.engine, "do_connect", guard.check)  # SQLite would replace a deleted file by an empty one
        event.listen(storage.engine, "checkout", guard.check)
    return storage


@contextmanager
def _keep_loggers() -> Iterator[None]:
    """Keep Optuna from disabling all loggers of the process when it creates a database.

    Optuna configures logging only if the root logger has no handler.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


_open_patiently = retry_while_unavailable(_open)


def _in_wal(file: Path) -> bool:
    """Return whether a database file uses a write-ahead log (WAL).

    A new file is switched to WAL mode if its file system supports WAL. The index of the log is memory shared between
    processes, which many network file systems do not support. In this case, SQLite fails at the first read and at every
    later one, so the function switches the file back to a rollback journal.
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
            return False  # the file is in use or cannot be opened; opening the storage reports the error
    with suppress(sqlite3.Error), closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # with exclusive access, SQLite needs no shared index
        connection.execute("PRAGMA journal_mode=DELETE")
        Path(f"{file}-shm").unlink(missing_ok=True)  # file of the shared index
    return False


def _has_log(file: Path) -> bool:
    """Return whether the header of a database file declares a write-ahead log."""
    try:
        with file.open("rb") as stream:
            return stream.read(20)[18:20] == b"\2\2"
    except OSError:
        return False
