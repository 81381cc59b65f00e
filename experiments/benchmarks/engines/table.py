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
    """One trial as it was recorded, whole.

    Attributes:
        design: What it is of: `sobol`, `grid`, `start` or `random`.
        number: Its place there.
        params: Its point.
        score: Its score; None where it failed.
        held_out: AUC of the mean over its fold models, on cases that no fold holds; None where it failed.
        folds: Score of each fold.
        auc: Score after each epoch (frozen), or empty.
        reports: Step, mean so far and, at the end of a fold, its score, as pruners hear it (finetune), or empty.
        seconds: Processor seconds that it took, with features that lay ready.
        wall: Seconds on the clock, on a machine that did other work.
    """

    design: str
    number: int
    params: Params
    score: float | None
    held_out: float | None
    folds: list[float]
    seconds: float
    wall: float
    auc: list[float] = field(default_factory=list)
    reports: list[tuple[int, float, float | None]] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, int]:
        """Which point of the design it is."""
        return self.design, self.number


@dataclass(frozen=True)
class Table:
    """Recorded trials of one space on one data set.

    Attributes:
        name: Short name of the data set and regime, such as `idc-frozen`.
        facts: What it was recorded with.
        features: Processor seconds that the features of a view took, by backbone and view.
        entries: The trials, in the order of their recording.
        scales: Of the surrogate's kernels; see `surrogate.fitted_scales`.
    """

    name: str
    facts: dict[str, Any]
    features: dict[str, dict[str, float]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    scales: dict[str, list[float]] = field(default_factory=dict)

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
