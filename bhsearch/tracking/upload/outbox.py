"""The outbox: finished trials that MLflow does not have yet, one atomically created folder per trial.

A trial is put into the outbox before the engine stores its result, and marked as ready for upload afterwards. Whenever
a process dies, each trial that the engine counts is therefore either in the outbox or in MLflow. Each command has its
own outbox and uploader; the next command sends the trials in the outboxes of commands that died.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from bhsearch.runtime.cache import explain_write_errors
from bhsearch.runtime.locks import lock
from bhsearch.runtime.processes import is_alive, process_name, this_process
from bhsearch.tracking.records import StudyRecord, SummaryRecord, TrialRecord

VARIABLE = "BHSEARCH_OUTBOX"
_REMEDY = f"{VARIABLE}=FOLDER names another place for finished trials that MLflow does not have yet."
Arrays = Mapping[str, npt.NDArray[Any]]
R = TypeVar("R", StudyRecord, TrialRecord, SummaryRecord)
_RECORD, _ARRAYS = "record.json", "arrays.npz"
_STUDY, _END, _HELD, _OWNER = "study", "end", ".held", "owner.json"


def outbox_root() -> Path:
    """Return the folder of all outboxes: `$BHSEARCH_OUTBOX`, by default `outbox` in the working directory."""
    return Path(os.environ.get(VARIABLE) or "outbox")


@dataclass(frozen=True, eq=False)
class Message(Generic[R]):
    """A record in the outbox, with its arrays.

    Attributes:
        folder: Folder of the record.
        record: Content of the JSON file.
        arrays: Arrays of the record, by name.
    """

    folder: Path
    record: R
    arrays: Arrays


class Outbox:
    """The outbox of one command for one study.

    Args:
        folder: Folder of the outbox.
        make: Whether to create the folder if it is missing.
    """

    def __init__(self, folder: Path, make: bool = True) -> None:
        self.folder = folder
        if make:
            with explain_write_errors(f"the outbox {folder}", _REMEDY):
                folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def open(cls, root: Path, uid: str) -> Outbox:
        """Return the outbox of this process for a study."""
        process = this_process()
        box = cls(root / f"{uid}.{process_name(process)}")
        with explain_write_errors(f"the outbox {box.folder}", _REMEDY):
            (box.folder / _OWNER).write_text(json.dumps(process), encoding="utf-8")
        return box

    def others(self) -> list[Outbox]:
        """Return the outboxes of other commands for the same study."""
        return [box for box in all_outboxes(self.folder.parent, self.uid) if box.folder != self.folder]

    @property
    def uid(self) -> str:
        """Identifier of the study."""
        return self.folder.name.partition(".")[0]

    @property
    def orphaned(self) -> bool:
        """Whether the command that owns the outbox has ended."""
        try:
            return not is_alive(json.loads((self.folder / _OWNER).read_text(encoding="utf-8")))
        except (OSError, ValueError):  # owner file not written yet, or outbox deleted
            return not self.begun

    @property
    def begun(self) -> bool:
        """Whether the description of the study has been written to the outbox."""
        return (self.folder / _STUDY).exists()

    def put_study(self, record: StudyRecord, arrays: Arrays) -> None:
        """Store the record of the study, which stays in the outbox until the outbox is closed."""
        shutil.rmtree(self.folder / _END, ignore_errors=True)  # unsent summary of a session that died
        self._write(_STUDY, record, arrays)

    def study(self) -> Message[StudyRecord]:
        """Return the record of the study."""
        study: Message[StudyRecord] = self._read(self.folder / _STUDY)
        return study

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Hold the sending lock while the block runs; the uploader of a killed search may still hold it."""
        with ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):  # the outbox is gone: another process has sent its trials
                stack.enter_context(lock(self.folder / ".lock"))
            yield

    def put(self, number: int, record: TrialRecord, arrays: Arrays) -> None:
        """Store a finished trial, which is sent only after `release`."""
        self._write(f"{number:05d}{_HELD}", record, arrays)

    def release(self, number: int) -> None:
        """Mark a trial as ready for upload, after the engine stored its result; no effect if it is already marked."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / f"{number:05d}{_HELD}").rename(self.folder / f"{number:05d}")

    def drop(self, number: int) -> None:
        """Delete a trial that is not ready for upload, because the engine has stored another result for the trial."""
        shutil.rmtree(self.folder / f"{number:05d}{_HELD}", ignore_errors=True)

    def held(self) -> dict[int, TrialRecord]:
        """Return the records of the trials that are not ready for upload, by trial number."""
        folders = sorted(self.folder.glob(f"*{_HELD}"))
        return {int(folder.name.removesuffix(_HELD)): self._read_trial(folder).record for folder in folders}

    def waiting(self) -> list[int]:
        """Return the numbers, in ascending order, of the trials that are ready for upload but not yet uploaded."""
        with contextlib.suppress(FileNotFoundError):  # closed
            return sorted(int(folder.name) for folder in self.folder.iterdir() if folder.name.isdigit())
        return []

    def holds(self) -> set[int]:
        """Return the numbers of all trials in the outbox, whether or not they are ready for upload."""
        with contextlib.suppress(FileNotFoundError):  # closed
            names = (folder.name.removesuffix(_HELD) for folder in self.folder.iterdir())
            return {int(name) for name in names if name.isdigit()}
        return set()

    def trial(self, number: int) -> Message[TrialRecord]:
        """Return a trial that is ready for upload."""
        return self._read_trial(self.folder / f"{number:05d}")

    def sent(self, number: int) -> None:
        """Delete a trial from the outbox after it was sent to MLflow."""
        shutil.rmtree(self.folder / f"{number:05d}")

    def put_summary(self, record: SummaryRecord, arrays: Arrays) -> None:
        """Store the summary of this session."""
        self._write(_END, record, arrays)

    def end(self) -> Message[SummaryRecord] | None:
        """Return the summary of this session; None if no summary was stored."""
        if not (self.folder / _END).exists():
            return None
        summary: Message[SummaryRecord] = self._read(self.folder / _END)
        return summary

    def close(self) -> None:
        """Delete the outbox unless it still contains a trial."""
        if not self.holds():
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # the parent folder contains other outboxes
                self.folder.parent.rmdir()

    def _write(self, name: str, record: StudyRecord | TrialRecord | SummaryRecord, arrays: Arrays) -> None:
        with explain_write_errors(f"the outbox {self.folder}", _REMEDY):
            draft = Path(tempfile.mkdtemp(prefix=".", dir=self.folder))
            try:
                (draft / _RECORD).write_text(json.dumps(record), encoding="utf-8")
                np.savez(draft / _ARRAYS, **arrays)  # type: ignore[arg-type]
                if (self.folder / name).exists():
                    shutil.rmtree(self.folder / name)
                draft.rename(self.folder / name)
            finally:
                shutil.rmtree(draft, ignore_errors=True)  # no effect after a successful rename

    @classmethod
    def _read_trial(cls, folder: Path) -> Message[TrialRecord]:
        trial: Message[TrialRecord] = cls._read(folder)
        return trial

    @staticmethod
    def _read(folder: Path) -> Message[Any]:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        with np.load(folder / _ARRAYS) as arrays:
            return Message(folder, record, {name: arrays[name] for name in arrays.files})


def all_outboxes(root: Path, uid: str = "") -> list[Outbox]:
    """Return all outboxes of a study, or of all studies."""
    return [Outbox(folder, make=False) for folder in sorted(root.glob(f"{uid}*.*")) if folder.is_dir()]
