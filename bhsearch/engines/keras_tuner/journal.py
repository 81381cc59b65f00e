"""Storage of KerasTuner studies: a folder with the study's metadata and a journal of its trials.

The journal has one line for the start and one for the end of each trial. A line is valid once its final newline is
written. If a process is killed while writing, the last line is incomplete; readers ignore an incomplete line, and the
next writer removes it. Writers hold the lock of the folder. Readers need no lock; they detect new lines by the size of
the file.

KerasTuner's own files are not used: KerasTuner overwrites them in place, in two steps per trial, and cannot restore the
position in a grid or the random state from them. Oracles are rebuilt from the trials instead; see `oracles`.
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
from bhsearch.runtime.store_schema import SCHEMA, require_schema
from bhsearch.states import RUNNING

DIRECTORY = Path("keras_tuner")
_FACTS, _TRIALS, _LOCK = "facts.json", "trials.jsonl", "lock"


@dataclass(frozen=True)
class JournalEntry:
    """A trial in the journal.

    Attributes:
        trial: The trial.
        sampler: Name of the oracle that chose the parameters; empty if the caller gave them.
        place: Position in the oracle's sequence, from 0; -1 if the caller gave the parameters.
        extra: Values besides the parameters that the oracle stores with the trial, such as Hyperband's round.
    """

    trial: Trial
    sampler: str = ""
    place: int = -1
    extra: dict[str, Any] = field(default_factory=dict)


class Journal:
    """The trials of one study.

    Args:
        folder: Folder of the study.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: list[JournalEntry] = []
        self._file = 0  # inode of the file that was read, to detect that the file was replaced
        self._read = 0  # number of bytes read so far

    def entries(self) -> Sequence[JournalEntry]:
        """Return all trials, also of other processes, ordered by number. The caller must not change the sequence."""
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
        """Hold the lock of the folder, so that no other process writes, and yield all trials."""
        with explain_write_errors(f"the study {self.folder}", ""), lock(self.folder / _LOCK):
            yield self.entries()

    def start(self, entry: JournalEntry) -> None:
        """Store the start of a trial; the caller must hold the lock (see `alone`)."""
        trial = entry.trial
        line = {"trial": trial.number, "params": trial.params, "notes": trial.notes}
        self._append(line | {"sampler": entry.sampler, "place": entry.place, "extra": entry.extra})

    def end(self, number: int, state: str, value: float | None, notes: dict[str, Any]) -> None:
        """Store the end of a trial; does nothing if the trial has ended with the same state and score.

        Raises:
            TrialAlreadyEnded: If the trial has ended with another state or score.
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
            stream.truncate(self._read)  # remove an incomplete line, left by a killed process or a full disk
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
                self._apply(json.loads(line))
            except (ValueError, KeyError, IndexError, TypeError) as error:
                raise StudyError(
                    f"{self.folder / _TRIALS} is damaged or was not written by bhsearch; it contains the line "
                    f"{line[:80]!r}. Restore the file, or create a new study with --study."
                ) from error
        self._read += len(whole)

    def _apply(self, line: dict[str, Any]) -> None:
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
    """A study with its folder and its journal; created by `open_study` and `find_study`.

    Args:
        folder: Folder of the study.
        name: Name of the study as given by the user, without the quoting of the folder name.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.journal = Journal(folder)

    def delete(self) -> None:
        """Delete the study atomically: if the process is killed, the study is either deleted or unchanged."""
        folder = self.journal.folder
        with self.journal.alone():
            (folder / _FACTS).unlink()
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # the parent folder contains other studies
            folder.parent.rmdir()


def open_study(directory: Path, name: str, facts: dict[str, Any]) -> KerasTunerStudy:
    """Open a study; create it with the metadata `facts` if it does not exist.

    Raises:
        StudyError: If another program created the folder of the study.
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
                        f"The folder {folder} was not created by bhsearch: it contains {min(strangers)!r}, a file of "
                        "another program. Choose another name with --study."
                    )
                if not (folder / _FACTS).exists():
                    (folder / _TRIALS).unlink(missing_ok=True)  # left by a deletion that was interrupted
                    _write(folder, {"study": name, "schema": SCHEMA, "facts": facts, "settings": {}})
    return KerasTunerStudy(folder, name)


def find_study(directory: Path, name: str) -> KerasTunerStudy:
    """Return an existing study.

    Raises:
        MissingError: If the study does not exist; the message lists the existing studies.
    """
    folder = _folder(directory, name)
    if not (folder / _FACTS).exists():
        raise MissingError(
            f"There is no study {name!r} in {directory}. Existing studies: {', '.join(names(directory)) or 'none'}."
        )
    return KerasTunerStudy(folder, name)


def names(directory: Path) -> list[str]:
    """Return the names of all studies."""
    return sorted(_read(file.parent)["study"] for file in directory.glob(f"*/{_FACTS}"))


def metadata_of(study: KerasTunerStudy) -> dict[str, Any]:
    """Return the metadata that the study was created with.

    Raises:
        StudyError: If the schema of the study is not the current one.
    """
    held = _read(study.journal.folder)
    require_schema(held["schema"], f"The study {study.name!r}")
    return dict(held["facts"])


def save_settings(study: KerasTunerStudy, settings: dict[str, Any]) -> None:
    """Store the settings of the last command that opened the study."""
    if load_settings(study) != settings:
        with study.journal.alone():
            _write(study.journal.folder, _read(study.journal.folder) | {"settings": settings})


def load_settings(study: KerasTunerStudy) -> dict[str, Any]:
    """Return the most recently stored settings; empty if no settings were stored."""
    return dict(_read(study.journal.folder)["settings"])


def save_costs(study: KerasTunerStudy, costs: dict[str, Any]) -> None:
    """Store costs with the study."""
    with study.journal.alone():
        _write(study.journal.folder, _read(study.journal.folder) | {"costs": costs})


def load_costs(study: KerasTunerStudy) -> dict[str, Any]:
    """Return the stored costs; empty if none were stored."""
    return dict(_read(study.journal.folder)["costs"])


def completed_trials(study: KerasTunerStudy) -> list[tuple[float, Params]]:
    """Return the score and the parameters of every complete trial."""
    trials = [entry.trial for entry in study.journal.entries()]
    return [(trial.value, dict(trial.params)) for trial in trials if trial.value is not None]


def add_backbones(study: KerasTunerStudy, facts: dict[str, Any], backbones: Sequence[str]) -> KerasTunerStudy:  # noqa: ARG001
    """Add backbones to a study by replacing its metadata; its trials do not change.

    Args:
        study: The study to extend.
        facts: New metadata of the study, which includes all backbones.
        backbones: All backbones, existing ones first; not used, because `facts` includes them.

    Returns:
        The same study.

    Raises:
        StudyError: If a trial is running.
    """
    with study.journal.alone() as entries:
        if any(entry.trial.state == RUNNING for entry in entries):
            raise StudyError(
                f"Cannot add backbones to the study {study.name!r} while another command runs its trials. Wait until "
                "that command has ended, or leave out the new backbones."
            )
        _write(study.journal.folder, _read(study.journal.folder) | {"facts": facts})
    return study


def _folder(directory: Path, name: str) -> Path:
    """Return the folder of a study; characters of the name that are not allowed in a folder name are quoted."""
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
            "costs": dict(held.get("costs", {})),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"Cannot read the study metadata in {folder / _FACTS}. Restore the file, or create a new study with "
            "--study."
        ) from error
