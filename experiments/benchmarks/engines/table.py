"""The table of recorded trials: what a replay answers from, and the one small file that holds it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bhsearch.errors import DataError
from bhsearch.objectives.space import Params

FILE = Path(__file__).with_name("table.json.gz")


@dataclass(frozen=True)
class Entry:
    """One recorded trial.

    Attributes:
        number: Number of its point in the order of recording.
        params: Parameters.
        score: Score; None if the trial failed.
        held_out: AUC of the mean over its fold models, on cases that no fold contains; None if the trial failed.
        folds: Score of each fold.
        seconds: Processor seconds of the trial, without features and without the step of its path.
        step: Processor seconds of solving a linear head from the next stronger penalty; 0 for all other models.
        reports: Step, mean so far and, at the end of a fold, its score, as pruners see it (finetune); otherwise empty.
    """

    number: int
    params: Params
    score: float | None
    held_out: float | None
    folds: list[float]
    seconds: float
    step: float = 0.0
    reports: list[tuple[int, float, float | None]] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """Recorded trials of one space on one data set.

    Attributes:
        name: Short name of the data set and regime, such as `idc-frozen`.
        facts: Settings of the recording.
        features: Processor seconds of computing the features of a view, by backbone and view.
        entries: The trials, in the order of their recording.
    """

    name: str
    facts: dict[str, Any]
    features: dict[str, dict[str, float]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    @property
    def scored(self) -> list[Entry]:
        """Those that did not fail."""
        return [entry for entry in self.entries if entry.score is not None]


def write(file: Path, tables: Sequence[Table]) -> None:
    """Keep tables in one file; whole or not at all, and the same bytes for the same tables."""
    text = json.dumps([asdict(table) for table in tables], separators=(",", ":"))
    draft = file.with_name(file.name + ".part")
    draft.write_bytes(gzip.compress(text.encode(), mtime=0))
    draft.replace(file)


def read(file: Path) -> dict[str, Table]:
    """Tables by name.

    Raises:
        DataError: If it is no such file.
    """
    try:
        records = json.loads(gzip.decompress(file.read_bytes()))
        return {record["name"]: _table(record) for record in records}
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"--table must be a file that record.py made, but {file} is not: {error}") from error


def _table(record: dict[str, Any]) -> Table:
    return Table(**{**record, "entries": [entry_of(entry) for entry in record["entries"]]})


def entry_of(record: dict[str, Any]) -> Entry:
    """An entry from what `asdict` made of it, through JSON."""
    reports = [(step, mean, fold) for step, mean, fold in record["reports"]]
    return Entry(**{**record, "reports": reports})
