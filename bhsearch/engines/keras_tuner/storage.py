"""Where a study of KerasTuner is kept: a folder with its facts, and a journal of its trials.

A trial's start is one line of the journal, and its end another. A line is written by one call and counts from its last
byte on, so that a process that is killed at any moment leaves a whole journal, or one with half a line at its end that
nobody reads and the next writer cuts off. Who writes holds the folder's lock; who reads needs none, and asks the file
system for the journal's size to see whether there is anything new.

KerasTuner's own files would not do: it writes them in place, in two steps a trial, and cannot go on from them with a
grid or with the same random numbers. An oracle is made from the trials instead; see `keras_tuner_oracles`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bhsearch.engines.base import Trial, TrialAlreadyEnded
from bhsearch.errors import MissingError, StudyError
from bhsearch.objectives.space import Params
from bhsearch.runtime.cache import explain_write_errors
from bhsearch.runtime.locks import lock
from bhsearch.runtime.schema import SCHEMA, require_schema
from bhsearch.states import RUNNING

DIRECTORY = Path("keras_tuner")
_FACTS, _TRIALS, _LOCK = "facts.json", "trials.jsonl", "lock"


@dataclass(frozen=True)
class JournalEntry:
    """A trial as the journal holds it.

    Attributes:
        trial: What everybody sees of it.
        sampler: The oracle that chose its point; empty where the point was given.
        place: Its place in that oracle's sequence, from 0.
        extra: What the oracle keeps with it beside the point.
    """

    trial: Trial
    sampler: str = ""
    place: int = -1
    extra: dict[str, Any] = field(default_factory=dict)


class Journal:
    """The trials of one study.

    Args:
        folder: Of the study.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: list[JournalEntry] = []
        self._file = 0  # which file was read: another of that name may have come since
        self._read = 0  # bytes of it

    def entries(self) -> Sequence[JournalEntry]:
        """All trials by number, with what other processes have written since. Look only."""
        try:
            found = (self.folder / _TRIALS).stat()
        except FileNotFoundError:
            found = None
        if found is None or found.st_ino != self._file:
            self._entries, self._read = [], 0
            self._file = found.st_ino if found is not None else 0
        if found is not None and found.st_size > self._read:
            self._catch_up()
        return self._entries

    @contextlib.contextmanager
    def alone(self) -> Iterator[Sequence[JournalEntry]]:
        """Hold the lock: nobody writes but the block, which is given all trials."""
        with explain_write_errors(f"the study {self.folder}", ""), lock(self.folder / _LOCK):
            yield self.entries()

    def start(self, entry: JournalEntry) -> None:
        """Keep a trial that begins. Only while `alone`."""
        trial = entry.trial
        line = {"trial": trial.number, "params": trial.params, "notes": trial.notes}
        self._append(line | {"sampler": entry.sampler, "place": entry.place, "extra": entry.extra})

    def end(self, number: int, state: str, value: float | None, notes: dict[str, Any]) -> None:
        """Keep the end of a trial; nothing is done if it ended in the same way before.

        Raises:
            Overtaken: If it ended in another way.
        """
        with self.alone() as entries:
            trial = entries[number].trial
            if trial.state != RUNNING:
                if (trial.state, trial.value) != (state, value):
                    raise TrialAlreadyEnded
                return
            self._append({"trial": number, "state": state, "value": value, "notes": notes})

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        with (self.folder / _TRIALS).open("ab", buffering=0) as stream:
            stream.truncate(self._read)  # half a line of a process that was killed, or of a disk that was full
            while data:
                data = data[stream.write(data) :]
        self.entries()

    def _catch_up(self) -> None:
        with (self.folder / _TRIALS).open("rb") as stream:
            stream.seek(self._read)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                self._hear(json.loads(line))
            except (ValueError, KeyError, IndexError, TypeError) as error:
                raise StudyError(
                    f"{self.folder / _TRIALS} must be a journal of bhsearch, but holds the line {line[:80]!r}. "
                    "Restore the file, or name another study with --study."
                ) from error
        self._read += len(whole)

    def _hear(self, line: dict[str, Any]) -> None:
        number = line["trial"]
        if "state" in line:
            held = self._entries[number]
            trial = replace(
                held.trial, state=line["state"], value=line["value"], notes=held.trial.notes | line["notes"]
            )
            self._entries[number] = replace(held, trial=trial)
        elif number == len(self._entries):
            trial = Trial(number, RUNNING, line["params"], notes=line["notes"])
            self._entries.append(JournalEntry(trial, line["sampler"], line["place"], line["extra"]))
        else:
            raise ValueError(number)


class KerasTunerStudy:
    """A study in its folder.

    Args:
        folder: From `open_study` or `find_study`.
        name: As the user gave it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.journal = Journal(folder)

    def delete(self) -> None:
        """Delete it; killed on the way it is gone, or as it was."""
        folder = self.journal.folder
        with self.journal.alone():
            (folder / _FACTS).unlink()
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # other studies are there
            folder.parent.rmdir()


def open_study(directory: Path, name: str, facts: dict[str, Any]) -> KerasTunerStudy:
    """Open a study, or make it with `facts`, which it keeps; see `metadata_of`.

    Raises:
        StudyError: If its folder is of another program.
        PlaceError: If the folder cannot be written.
    """
    folder = _folder(directory, name)
    if not (folder / _FACTS).exists():
        with explain_write_errors(f"the study {folder}", ""):
            folder.mkdir(parents=True, exist_ok=True)
            with lock(folder / _LOCK):
                strangers = {file.name for file in folder.iterdir()} - {_FACTS, _FACTS + ".new", _TRIALS, _LOCK}
                if strangers:
                    raise StudyError(
                        f"The folder {folder} must be one of bhsearch, but another program made it: it holds "
                        f"{min(strangers)}. Name another study with --study."
                    )
                if not (folder / _FACTS).exists():
                    (folder / _TRIALS).unlink(missing_ok=True)  # of a study that was killed while it was deleted
                    _write(folder, {"study": name, "schema": SCHEMA, "facts": facts, "settings": {}})
    return KerasTunerStudy(folder, name)


def find_study(directory: Path, name: str) -> KerasTunerStudy:
    """A study that must be there.

    Raises:
        MissingError: If it is not; the message lists those that are.
    """
    folder = _folder(directory, name)
    if not (folder / _FACTS).exists():
        raise MissingError(
            f"The study must be in {directory}, but {name!r} is not. There: {', '.join(names(directory)) or 'none'}."
        )
    return KerasTunerStudy(folder, name)


def names(directory: Path) -> list[str]:
    """Names of all studies."""
    return sorted(_read(file.parent)["study"] for file in directory.glob(f"*/{_FACTS}"))


def metadata_of(study: KerasTunerStudy) -> dict[str, Any]:
    """What the study was made with.

    Raises:
        StudyError: If its schema is not the current one.
    """
    held = _read(study.journal.folder)
    require_schema(held["schema"], f"The study {study.name!r}")
    return dict(held["facts"])


def save_settings(study: KerasTunerStudy, settings: dict[str, Any]) -> None:
    """Keep the settings of whoever opened the study last, for workers that join it."""
    if load_settings(study) != settings:
        with study.journal.alone():
            _write(study.journal.folder, _read(study.journal.folder) | {"settings": settings})


def load_settings(study: KerasTunerStudy) -> dict[str, Any]:
    """What `save_settings` was given last; empty if nothing."""
    return dict(_read(study.journal.folder)["settings"])


def completed_trials(study: KerasTunerStudy) -> list[tuple[float, Params]]:
    """Score and point of every complete trial."""
    trials = [entry.trial for entry in study.journal.entries()]
    return [(trial.value, dict(trial.params)) for trial in trials if trial.value is not None]


def add_backbones(study: KerasTunerStudy, facts: dict[str, Any], backbones: Sequence[str]) -> KerasTunerStudy:  # noqa: ARG001
    """Give a study more backbones: its facts say which it has, and its trials stay as they are.

    Args:
        study: The study as it is.
        facts: What it keeps from now on; its backbones with it.
        backbones: All its backbones, the old ones first.

    Raises:
        StudyError: If one of its trials is running.
    """
    with study.journal.alone() as entries:
        if any(entry.trial.state == RUNNING for entry in entries):
            raise StudyError(
                f"A study can get new backbones only while none of its trials runs, but {study.name!r} is in use."
            )
        _write(study.journal.folder, _read(study.journal.folder) | {"facts": facts})
    return study


def _folder(directory: Path, name: str) -> Path:
    """A name may hold what a folder may not."""
    safe = quote(name, safe=" ")
    return directory / (safe if not safe.startswith(".") else "%2E" + safe[1:])


def _write(folder: Path, held: dict[str, Any]) -> None:
    new = folder / (_FACTS + ".new")
    new.write_text(json.dumps(held, indent=1), encoding="utf-8")
    new.replace(folder / _FACTS)


def _read(folder: Path) -> dict[str, Any]:
    try:
        held = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        return {
            "study": str(held["study"]),
            "schema": held.get("schema"),
            "facts": dict(held["facts"]),
            "settings": dict(held["settings"]),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{folder / _FACTS} must be the facts of a study of bhsearch, but cannot be read. "
            "Restore the file, or name another study with --study."
        ) from error
