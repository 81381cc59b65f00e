"""The outbox: finished trials that MLflow does not have yet, as folders that appear whole or not at all.

A trial is put before the engine is told of its end, and released after. So whichever process dies when, a trial that
the engine counts is either in the outbox or in MLflow. Each command at a study has an outbox of its own, and its own
process that sends from it; outboxes whose command died are sent by the next.
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
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.runtime.cache import explain_write_errors
from bhsearch.runtime.locks import lock
from bhsearch.runtime.processes import is_alive, this_process

VARIABLE = "BHSEARCH_OUTBOX"
_REMEDY = f"{VARIABLE}=FOLDER names another place for finished trials that MLflow does not have yet."
Arrays = Mapping[str, npt.NDArray[Any]]
_RECORD, _ARRAYS = "record.json", "arrays.npz"
_STUDY, _END, _HELD, _OWNER = "study", "end", ".held", "owner.json"


def outbox_root() -> Path:
    """Folder of all outboxes: `$BHSEARCH_OUTBOX`, else `outbox` in the working directory."""
    return Path(os.environ.get(VARIABLE) or "outbox")


@dataclass(frozen=True, eq=False)
class Message:
    """One folder of the outbox: a record in JSON, and arrays beside it."""

    folder: Path
    record: dict[str, Any]
    arrays: Arrays


class Outbox:
    """The outbox of one command at one study.

    Args:
        folder: Where it lies.
        make: Whether to make the folder where it is missing.
    """

    def __init__(self, folder: Path, make: bool = True) -> None:
        self.folder = folder
        if make:
            with explain_write_errors(f"the outbox {folder}", _REMEDY):
                folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def open(cls, root: Path, uid: str) -> Outbox:
        """The outbox of this process at a study, in the folder of all outboxes."""
        process = this_process()
        box = cls(root / f"{uid}.{process['pid']}-{process['started']:.0f}")
        with explain_write_errors(f"the outbox {box.folder}", _REMEDY):
            (box.folder / _OWNER).write_text(json.dumps(process), encoding="utf-8")
        return box

    def others(self) -> list[Outbox]:
        """Those of other commands at the same study."""
        return [box for box in all_outboxes(self.folder.parent, self.uid) if box.folder != self.folder]

    @property
    def uid(self) -> str:
        """Of its study."""
        return self.folder.name.partition(".")[0]

    @property
    def orphaned(self) -> bool:
        """Whether its command is gone."""
        try:
            return not is_alive(json.loads((self.folder / _OWNER).read_text(encoding="utf-8")))
        except (OSError, ValueError):  # not written yet, or gone altogether: nothing lies in it
            return not self.begun

    @property
    def begun(self) -> bool:
        """Whether it says what its trials are of."""
        return (self.folder / _STUDY).exists()

    def put_study(self, record: dict[str, Any], arrays: Arrays) -> None:
        """Say what the trials are of: kept until the outbox is closed."""
        shutil.rmtree(self.folder / _END, ignore_errors=True)  # of a session that died before it was sent
        self._write(_STUDY, record, arrays)

    def study(self) -> Message:
        """What `put_study` was given last."""
        return self._read(self.folder / _STUDY)

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Wait until nobody else sends from here: who outlived a killed search may still be at it."""
        with ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):  # whoever was at it has sent all
                stack.enter_context(lock(self.folder / ".lock"))
            yield

    def put(self, number: int, record: dict[str, Any], arrays: Arrays) -> None:
        """Keep a finished trial; nobody sends it before it is released."""
        self._write(f"{number:05d}{_HELD}", record, arrays)

    def release(self, number: int) -> None:
        """Let a trial be sent: the engine knows of its end. Another process may have done so already."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / f"{number:05d}{_HELD}").rename(self.folder / f"{number:05d}")

    def drop(self, number: int) -> None:
        """Forget a trial that was put: the engine holds another end of it."""
        shutil.rmtree(self.folder / f"{number:05d}{_HELD}", ignore_errors=True)

    def held(self) -> dict[int, dict[str, Any]]:
        """Records of trials that were put and never released, by number."""
        return {int(f.name.removesuffix(_HELD)): self._read(f).record for f in sorted(self.folder.glob(f"*{_HELD}"))}

    def waiting(self) -> list[int]:
        """Numbers of the trials that can be sent, in order."""
        with contextlib.suppress(FileNotFoundError):  # closed
            return sorted(int(folder.name) for folder in self.folder.iterdir() if folder.name.isdigit())
        return []

    def holds(self) -> set[int]:
        """Numbers of all trials that MLflow does not have yet, or not whole."""
        with contextlib.suppress(FileNotFoundError):  # closed
            names = (folder.name.removesuffix(_HELD) for folder in self.folder.iterdir())
            return {int(name) for name in names if name.isdigit()}
        return set()

    def trial(self, number: int) -> Message:
        """A trial that waits."""
        return self._read(self.folder / f"{number:05d}")

    def sent(self, number: int) -> None:
        """Forget a trial: MLflow has it."""
        shutil.rmtree(self.folder / f"{number:05d}")

    def put_summary(self, record: dict[str, Any], arrays: Arrays) -> None:
        """Say how this session of the study ended."""
        self._write(_END, record, arrays)

    def end(self) -> Message | None:
        """What `put_summary` was given, or None."""
        return self._read(self.folder / _END) if (self.folder / _END).exists() else None

    def close(self) -> None:
        """Delete the outbox, if no trial is left in it."""
        if not self.holds():
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # others lie there, or another command has just put one
                self.folder.parent.rmdir()

    def _write(self, name: str, record: dict[str, Any], arrays: Arrays) -> None:
        with explain_write_errors(f"the outbox {self.folder}", _REMEDY):
            draft = Path(tempfile.mkdtemp(prefix=".", dir=self.folder))
            try:
                (draft / _RECORD).write_text(json.dumps(record), encoding="utf-8")
                np.savez(draft / _ARRAYS, **arrays)  # type: ignore[arg-type]
                if (self.folder / name).exists():
                    shutil.rmtree(self.folder / name)
                draft.rename(self.folder / name)
            finally:
                shutil.rmtree(draft, ignore_errors=True)  # gone already when the rename succeeded

    @staticmethod
    def _read(folder: Path) -> Message:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        with np.load(folder / _ARRAYS) as arrays:
            return Message(folder, record, {name: arrays[name] for name in arrays.files})


def all_outboxes(root: Path, uid: str = "") -> list[Outbox]:
    """All outboxes of a study, or of all, in the folder of all outboxes."""
    return [Outbox(folder, make=False) for folder in sorted(root.glob(f"{uid}*.*")) if folder.is_dir()]
