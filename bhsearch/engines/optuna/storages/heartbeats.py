"""Heartbeats of running trials, by which a process notices that the process of a trial on another machine has died."""

from __future__ import annotations

import atexit
import contextlib
import time
import uuid
from pathlib import Path
from typing import Protocol, cast

import optuna
from optuna.storages import JournalStorage
from optuna.storages._heartbeat import BaseHeartbeat, is_heartbeat_enabled
from optuna.trial import TrialState

from bhsearch.engines.optuna.storages.attributes import notes_of
from bhsearch.engines.optuna.storages.journal import JournalFile
from bhsearch.runtime.processes import is_here, process_name, this_process

BEAT_SECONDS, GRACE_SECONDS = 20, 90
_DAY_SECONDS = 86400.0
_TRIES = 100


class Heartbeats(Protocol):
    """Heartbeats of the trials of a study."""

    @property
    def seconds(self) -> float | None:
        """Interval between two heartbeats; None if other machines cannot reach the storage, so that none are needed."""

    def begin(self, number: int) -> None:
        """Record that a trial of this process has been created, unless the storage has done that."""

    def beat(self, number: int) -> None:
        """Record that a running trial is alive."""

    def stale(self) -> set[int]:
        """Return the numbers of running trials whose last heartbeat is older than `GRACE_SECONDS`."""


class _NoHeartbeats:
    seconds = None

    def begin(self, number: int) -> None:
        """See `Heartbeats`."""

    def beat(self, number: int) -> None:
        """See `Heartbeats`."""

    def stale(self) -> set[int]:
        """See `Heartbeats`."""
        return set()


class _DatabaseHeartbeats:
    """Optuna's heartbeats, with the time of the database server."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self.seconds: float | None = cast(BaseHeartbeat, study._storage).get_heartbeat_interval()

    def begin(self, number: int) -> None:
        """Do nothing: `Database` creates a trial with its first heartbeat."""

    def beat(self, number: int) -> None:
        """See `Heartbeats`."""
        storage = self._study._storage
        trial_id = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        cast(BaseHeartbeat, storage).record_heartbeat(trial_id)

    def stale(self) -> set[int]:
        """See `Heartbeats`."""
        storage = self._study._storage
        found = cast(BaseHeartbeat, storage)._get_stale_trial_ids(self._study._study_id)
        return {storage.get_trial_number_from_id(each) for each in found}


class _Leases:
    """Files beside a journal, one for each process, whose time is renewed while the process runs a trial.

    All times are those of the file system, so that the clocks of the machines need not agree.
    """

    def __init__(self, study: optuna.Study, journal: Path) -> None:
        self._study = study
        self._folder = journal.with_name(f"{journal.name}.leases")
        self._own: Path | None = None
        self._missing: dict[str, float] = {}  # when a lease was first found missing, by its name
        self.seconds: float | None = BEAT_SECONDS

    def begin(self, number: int) -> None:  # noqa: ARG002
        """See `Heartbeats`."""
        if self._own is None:
            self._own = self._folder / process_name(this_process())
            atexit.register(self._end, self._own)
        self._touch(self._own)

    def beat(self, number: int) -> None:
        """See `Heartbeats`. A heartbeat that cannot be recorded is left out, since several must be missing."""
        with contextlib.suppress(OSError):
            self.begin(number)

    def _touch(self, file: Path) -> None:
        """Create or renew a file in the folder, which another process that ends may remove at the same time."""
        for left in reversed(range(_TRIES)):
            try:
                self._folder.mkdir(exist_ok=True)
                file.touch()
            except (FileNotFoundError, FileExistsError):
                if not left:
                    raise
            else:
                return

    def _end(self, own: Path) -> None:
        """Remove the lease of this process; the one of a process that is killed remains for a day."""
        with contextlib.suppress(OSError):
            own.unlink()
            self._folder.rmdir()

    def stale(self) -> set[int]:
        """See `Heartbeats`."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        owners = {trial.number: notes_of(trial).get("owner", {}) for trial in running}
        elsewhere = {number: process_name(owner) for number, owner in owners.items() if owner and not is_here(owner)}
        if not elsewhere:
            return set()
        ages = self._ages()
        self._missing = {name: self._missing.get(name, time.monotonic()) for name in {*elsewhere.values()} - {*ages}}
        # A trial begins shortly before the first heartbeat.
        ages |= {name: time.monotonic() - since for name, since in self._missing.items()}
        return {number for number, name in elsewhere.items() if ages[name] > GRACE_SECONDS}

    def _ages(self) -> dict[str, float]:
        """Return the seconds since the last heartbeat of each process; leases that are long out of use are deleted."""
        probe = self._folder / f".{uuid.uuid4().hex}"
        self._touch(probe)
        try:
            now = probe.stat().st_mtime
            ages = {}
            for file in self._folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    ages[file.name] = now - file.stat().st_mtime
                    if ages[file.name] > _DAY_SECONDS:
                        file.unlink()
            return ages
        finally:
            probe.unlink()


def heartbeats_of(study: optuna.Study) -> Heartbeats:
    """Return the heartbeats of a study's trials, which depend on its storage."""
    storage = study._storage
    if isinstance(storage, JournalStorage) and isinstance(storage._backend, JournalFile):
        return _Leases(study, storage._backend.path)
    return _DatabaseHeartbeats(study) if is_heartbeat_enabled(storage) else _NoHeartbeats()
