"""The outbox: finished trials that MLflow does not have yet, as folders that appear whole or not at all.

A trial is put before the engine is told of its end, and released after. So whichever process dies when, a trial that
the engine counts is either in the outbox or in MLflow.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.store import lock, writing

Arrays = Mapping[str, npt.NDArray[Any]]
_RECORD, _ARRAYS = "record.json", "arrays.npz"
_STUDY, _END, _HELD = "study", "end", ".held"


@dataclass(frozen=True, eq=False)
class Message:
    """One folder of the outbox: a record in JSON, and arrays beside it."""

    folder: Path
    record: dict[str, Any]
    arrays: Arrays


class Outbox:
    """The outbox of one study.

    Args:
        folder: Made where it is missing. One folder per study.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with writing(f"the outbox {folder}"):
            folder.mkdir(parents=True, exist_ok=True)

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
        with lock(self.folder / ".lock"):
            yield

    def put(self, number: int, record: dict[str, Any], arrays: Arrays) -> None:
        """Keep a finished trial; nobody sends it before it is released."""
        self._write(f"{number:05d}{_HELD}", record, arrays)

    def release(self, number: int) -> None:
        """Let a trial be sent: the engine knows of its end."""
        (self.folder / f"{number:05d}{_HELD}").rename(self.folder / f"{number:05d}")

    def held(self) -> dict[int, dict[str, Any]]:
        """Records of trials that were put and never released, by number."""
        return {int(f.name.removesuffix(_HELD)): self._read(f).record for f in sorted(self.folder.glob(f"*{_HELD}"))}

    def waiting(self) -> list[int]:
        """Numbers of the trials that can be sent, in order."""
        return sorted(int(folder.name) for folder in self.folder.iterdir() if folder.name.isdigit())

    def trial(self, number: int) -> Message:
        """A trial that waits."""
        return self._read(self.folder / f"{number:05d}")

    def sent(self, number: int) -> None:
        """Forget a trial: MLflow has it."""
        shutil.rmtree(self.folder / f"{number:05d}")

    def put_end(self, record: dict[str, Any], arrays: Arrays) -> None:
        """Say how this session of the study ended."""
        self._write(_END, record, arrays)

    def end(self) -> Message | None:
        """What `put_end` was given, or None."""
        return self._read(self.folder / _END) if (self.folder / _END).exists() else None

    def close(self) -> None:
        """Delete the outbox, if no trial is left in it."""
        if not self.waiting() and not self.held():
            shutil.rmtree(self.folder)
            if not any(self.folder.parent.iterdir()):
                self.folder.parent.rmdir()

    def _write(self, name: str, record: dict[str, Any], arrays: Arrays) -> None:
        with writing(f"the outbox {self.folder}"):
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
