"""Optuna's journal: a storage in one file, which processes on several machines can share through a common folder.

Optuna provides the journal; this module makes it survive what a search survives with a database. A process that is
killed while it holds the lock does not block the others for 30 s if they run on the same machine. A line that a crash
or a full disk has cut short is removed before the next line is written; otherwise the file could not be read any more.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock, get_lock_file
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import TrialState

from bhsearch.engines.optuna.storages.guard import FileGuard
from bhsearch.errors import PlaceError, StudyError
from bhsearch.runtime.cache import interprocess_lock
from bhsearch.runtime.processes import is_alive, is_here, this_process

_GRACE_SECONDS = 30.0  # time after which the lock of a process on another machine counts as abandoned
_MOST_PAUSE_SECONDS = 0.1
_BLOCK = 1 << 16  # bytes


class JournalLock(BaseJournalFileLock):
    """A lock between processes of several machines: a symbolic link, whose creation is atomic on NFS, too.

    The target of the link is not a file; it names the holder, so that the lock of a process that has died can be
    removed. A process on another machine counts as dead after 30 s, although it may only be suspended; it must
    therefore call `is_held` before it changes what others may have written since.

    Args:
        journal: Path of the journal, which the name of the link begins with.
    """

    def __init__(self, journal: Path) -> None:
        self._link = journal.with_name(f"{journal.name}.lock")
        self._mine = ""

    def acquire(self) -> bool:
        """Wait until the lock is held, and return True."""
        mine = json.dumps({**this_process(), "id": uuid.uuid4().hex})
        since, seen, pause = time.monotonic(), "", 0.001
        while not self._created(mine):
            holder = self._holder()
            if holder != seen:
                since, seen = time.monotonic(), holder
            elif holder and _is_abandoned(holder, time.monotonic() - since):
                self._remove(holder)
            time.sleep(pause)
            pause = min(2 * pause, _MOST_PAUSE_SECONDS)
        self._mine = mine
        return True

    def release(self) -> None:
        """Give the lock back; does nothing if another process has removed it as abandoned."""
        if self.is_held():
            self._link.unlink(missing_ok=True)

    def is_held(self) -> bool:
        """Return whether this process has the lock; False if another process has removed it as abandoned."""
        return self._holder() == self._mine

    def _created(self, target: str) -> bool:
        try:
            self._link.symlink_to(target)
        except FileExistsError:
            return False
        return True

    def _holder(self) -> str:
        """Return what the link says of its holder; empty if nobody holds the lock."""
        try:
            return str(self._link.readlink())
        except FileNotFoundError:
            return ""

    def _remove(self, holder: str) -> None:
        """Remove an abandoned lock; the processes of this machine do so one after another."""
        with interprocess_lock(f"the journal's lock {self._link}"):
            if self._holder() != holder:
                return
            aside = self._link.with_name(f"{self._link.name}.{uuid.uuid4().hex}")
            with contextlib.suppress(FileNotFoundError):  # a process of another machine was faster
                self._link.rename(aside)
                if str(aside.readlink()) != holder:  # and there is a new lock already, which is put back
                    with contextlib.suppress(FileExistsError):
                        os.link(aside, self._link, follow_symlinks=False)
                aside.unlink()


def _is_abandoned(holder: str, seconds: float) -> bool:
    """Return whether the holder of a lock has died.

    Args:
        holder: Target of the link.
        seconds: Seconds since this process first saw the link.
    """
    try:
        process = json.loads(holder)
    except ValueError:  # a lock of Optuna itself, which does not name its holder
        return seconds > _GRACE_SECONDS
    return not is_alive(process) if is_here(process) else seconds > _GRACE_SECONDS


class JournalFile(JournalFileBackend):
    """The file of a journal; see `optuna.storages.journal.JournalFileBackend`.

    Args:
        path: Path of the file, which is created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._link = JournalLock(self.path)
        super().__init__(str(self.path), self._link)
        self._guard = FileGuard(self.path, "journal")

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield the operations from the given number on.

        Raises:
            LostStorageError: If the file was deleted or replaced.
            StudyError: If the file is damaged or no journal.
        """
        self._guard.check()
        logs = super().read_logs(log_number_from)
        while True:
            try:
                log = next(logs)
                if not isinstance(log, dict) or "op_code" not in log:
                    raise ValueError("no operation of Optuna")
            except StopIteration:
                return
            except ValueError as error:
                raise StudyError(
                    f"The journal {self.path} in --storage is damaged, or is no journal of Optuna ({error}). Use "
                    "another file."
                ) from error
            yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations: all of them or none, unless the machine crashes.

        Raises:
            LostStorageError: If the file was deleted or replaced.
            PlaceError: If the disk is full, or the file or its folder cannot be written.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        try:
            is_written = False
            while not is_written:
                with get_lock_file(self._link):
                    self._guard.check()
                    is_written = self._append(lines)
        except OSError as error:
            raise _explained(error, self.path) or error from error

    def _append(self, lines: bytes) -> bool:
        """Write lines after the last complete one, and return True; False if the lock was lost before."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
        try:
            end = _end_of_last_line(descriptor)
            if not self._link.is_held():
                return False
            if end < os.fstat(descriptor).st_size:
                os.ftruncate(descriptor, end)
            try:
                while lines:
                    lines = lines[os.write(descriptor, lines) :]
                os.fsync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    if self._link.is_held():
                        os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
        return True


def open_journal(path: Path) -> JournalStorage:
    """Open a journal, and create the file if it does not exist.

    Raises:
        StudyError: If the file is damaged or no journal, or cannot be opened.
    """
    if not path.absolute().parent.is_dir():
        raise StudyError(f"Cannot open the journal in --storage: the folder {path.absolute().parent} does not exist.")
    try:
        return JournalStorage(JournalFile(path))
    except OSError as error:
        raise StudyError(f"Cannot open the journal {path.absolute()} in --storage: {error.strerror}.") from error


def set_attributes(storage: JournalStorage, trial_id: int, shown: Mapping[str, Any], hidden: Mapping[str, Any]) -> None:
    """Set user attributes and system attributes of a trial that has not ended, in one operation of the file.

    Raises:
        UpdateFinishedTrialError: If the trial has ended.
    """
    _append(storage, _attribute_rows(trial_id, shown, hidden))


def end_trial(
    storage: JournalStorage,
    trial_id: int,
    state: TrialState,
    values: Sequence[float] | None,
    shown: Mapping[str, Any],
    hidden: Mapping[str, Any],
) -> None:
    """End a trial and store user attributes and system attributes with it, in one operation of the file.

    Args:
        storage: The journal.
        trial_id: Trial that has not ended.
        state: State of the ended trial.
        values: Values of the objective; None if it has none.
        shown: User attributes.
        hidden: System attributes.

    Raises:
        UpdateFinishedTrialError: If the trial has ended.
    """
    end = {
        "op_code": JournalOperation.SET_TRIAL_STATE_VALUES,
        "trial_id": trial_id,
        "state": state,
        "values": values,
        "datetime_complete": datetime.now(tz=UTC).isoformat(timespec="microseconds"),
    }
    _append(storage, [*_attribute_rows(trial_id, shown, hidden), end])


def set_params(storage: JournalStorage, params: Iterable[tuple[int, str, float, BaseDistribution]]) -> None:
    """Set parameters of trials that have not ended, in one operation of the file.

    Args:
        storage: The journal.
        params: Arguments of `optuna.storages.BaseStorage.set_trial_param` for each parameter.

    Raises:
        UpdateFinishedTrialError: If a trial has ended.
        ValueError: If a distribution does not agree with those of earlier trials.
    """
    rows = [
        {
            "op_code": JournalOperation.SET_TRIAL_PARAM,
            "trial_id": trial_id,
            "param_name": name,
            "param_value_internal": value,
            "distribution": distribution_to_json(values),
        }
        for trial_id, name, value, values in params
    ]
    _append(storage, rows)


def _attribute_rows(trial_id: int, shown: Mapping[str, Any], hidden: Mapping[str, Any]) -> list[dict[str, Any]]:
    users, systems = JournalOperation.SET_TRIAL_USER_ATTR, JournalOperation.SET_TRIAL_SYSTEM_ATTR
    rows = [{"op_code": users, "trial_id": trial_id, "user_attr": {key: value}} for key, value in shown.items()]
    return rows + [
        {"op_code": systems, "trial_id": trial_id, "system_attr": {key: value}} for key, value in hidden.items()
    ]


def _append(storage: JournalStorage, operations: Sequence[dict[str, Any]]) -> None:
    """Write operations to a journal at once, and take them over; the first one that is refused decides the error."""
    if not operations:
        return
    with storage._thread_lock:
        worker = storage._replay_result.worker_id
        storage._backend.append_logs([{"worker_id": worker, **operation} for operation in operations])
        failure: Exception | None = None
        while True:  # one pass for each operation that is refused, and one that goes to the end
            try:
                storage._sync_with_backend()
            except (UpdateFinishedTrialError, ValueError) as error:
                failure = failure or error
            else:
                break
    if failure is not None:
        raise failure


def _end_of_last_line(descriptor: int) -> int:
    """Return the size of a file in bytes, without a last line that does not end."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        begin = max(0, end - _BLOCK)
        last = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if last >= 0:
            return begin + last + 1
        end = begin
    return 0


def _explained(error: OSError, path: Path) -> PlaceError | None:
    """Return the error of a journal that cannot be written, for people; None for an error of another kind."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PlaceError(
            f"The disk with the study's journal {path} is full. Free some space, and repeat the command to continue "
            "the study."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PlaceError(
            f"The study's journal {path} cannot be written ({error.strerror}). Give write permission on the file and "
            "its folder, or use another file with --storage."
        )
    return None
