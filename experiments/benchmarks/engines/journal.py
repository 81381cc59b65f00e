"""A recording in progress: a line of JSON per trial, appended, so that it goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bhsearch.errors import DataError
from experiments.benchmarks.engines.table import Entry, Table, entry_of


class Journal:
    """An append-only file with the facts first.

    Args:
        file: Where; made if it is not there. A last line that a killed process left half is taken off.
        name: Of the table.
        facts: What is recorded; a file of something else is refused.

    Raises:
        DataError: If the file records something else, or is none of these files.
    """

    def __init__(self, file: Path, name: str, facts: dict[str, Any]) -> None:
        self._file = file
        if not file.exists() or not _whole_lines(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_line({"name": name, "facts": facts}), encoding="utf-8")
        self.table = read_journal(file)
        if (self.table.name, self.table.facts) != (name, facts):
            raise DataError(
                f"{file} must go on with what it records, but holds {self.table.name} of {self.table.facts}, "
                f"and now it is {name} of {facts}: record into a new file."
            )

    def add(self, entry: Entry) -> None:
        """Keep a trial."""
        self._append({"entry": asdict(entry)})
        self.table.entries.append(entry)

    def add_features(self, backbone: str, view: str, seconds: float) -> None:
        """Keep what a view's features took."""
        self._append({"features": [backbone, view, seconds]})
        self.table.features.setdefault(backbone, {})[view] = seconds

    def _append(self, record: dict[str, Any]) -> None:
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(_line(record))


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":")) + "\n"


def _whole_lines(file: Path) -> int:
    """Take off what follows the last end of a line, and count the lines."""
    data = file.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        file.write_bytes(whole)
    return whole.count(b"\n")


def read_journal(file: Path) -> Table:
    """What a recording holds so far.

    Raises:
        DataError: If it is none.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            head, *records = [json.loads(line) for line in stream if line.endswith("\n")]
        table = Table(head["name"], head["facts"])
        for record in records:
            if "features" in record:
                backbone, view, seconds = record["features"]
                table.features.setdefault(backbone, {})[view] = seconds
            else:
                table.entries.append(entry_of(record["entry"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} must be a recording of record.py, but is none: {error}") from error
    return table
