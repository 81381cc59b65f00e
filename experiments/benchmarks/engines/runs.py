"""Replays of a contender over seeds, kept in a folder so that a comparison goes on where it was stopped."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bhsearch.objectives.space import Parameter, Params
from experiments.benchmarks.engines.contenders import Make
from experiments.benchmarks.engines.design import GRID, grid_space
from experiments.benchmarks.engines.replay import Answers, Trace, recorded_in_full, replay
from experiments.benchmarks.engines.surrogate import space_of, surrogate_of
from experiments.benchmarks.engines.table import Table


@dataclass(frozen=True)
class Arena:
    """What studies are replayed on.

    Attributes:
        name: Of the table, or of the part of it that was recorded in full.
        space: What is searched.
        answers: What a point gives.
        table: Where the answers come from.
    """

    name: str
    space: tuple[Parameter, ...]
    answers: Answers
    table: Table


def arena_of(table: Table) -> Arena:
    """The whole frozen space, answered by the surrogate."""
    return Arena(table.name, space_of(table), surrogate_of(table), table)


def grid_arena_of(table: Table) -> Arena:
    """The part of the frozen space that was recorded in full, answered by the recorded points."""
    return Arena(f"{table.name}, grid", grid_space(space_of(table)), recorded_in_full(table, GRID), table)


@dataclass(frozen=True)
class Runs:
    """Makes and keeps replays.

    Attributes:
        folder: Where they are kept; nowhere where None.
        say: Told of each contender.
    """

    folder: Path | None
    say: Callable[[str], None]

    def traces(
        self,
        arena: Arena,
        name: str,
        make: Make,
        seeds: Sequence[int],
        n_trials: int,
        first: Sequence[Sequence[Params]] | None = None,
    ) -> list[Trace]:
        """One replay per seed.

        Args:
            arena: Where.
            name: Of the contender; with the arena and the number of trials it says which replays these are.
            make: Makes its engine.
            seeds: Of the studies.
            n_trials: Of each.
            first: Points that each study begins with; none where None.
        """
        kept = self._read(arena, name, n_trials)
        made = []
        for row, seed in enumerate(seeds):
            if seed not in kept:
                with tempfile.TemporaryDirectory() as folder:
                    engine = make(arena.space, seed, Path(folder))
                    start = first[row] if first is not None else ()
                    kept[seed] = replay(engine, arena.answers, n_trials, arena.table.features, start)
                made.append(seed)
        if made:
            self._write(arena, name, n_trials, kept)
            milliseconds = 1000 * sum(kept[seed].thinking for seed in made) / sum(len(kept[s].scores) for s in made)
            self.say(f"{arena.name}: {name}, {len(made)} studies, {milliseconds:.1f} ms of thinking a trial")
        return [kept[seed] for seed in seeds]

    def _file(self, arena: Arena, name: str, n_trials: int) -> Path | None:
        text = "".join(c if c.isalnum() else "-" for c in f"{arena.name} {name} {n_trials}")
        return self.folder / f"{text}.json.gz" if self.folder is not None else None

    def _read(self, arena: Arena, name: str, n_trials: int) -> dict[int, Trace]:
        file = self._file(arena, name, n_trials)
        if file is None or not file.exists():
            return {}
        return {int(seed): _trace(each) for seed, each in json.loads(gzip.decompress(file.read_bytes())).items()}

    def _write(self, arena: Arena, name: str, n_trials: int, kept: dict[int, Trace]) -> None:
        file = self._file(arena, name, n_trials)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({seed: _record(trace) for seed, trace in kept.items()})
            draft = file.with_suffix(".part")
            draft.write_bytes(gzip.compress(text.encode(), 1))
            draft.replace(file)


def _record(trace: Trace) -> dict[str, object]:
    arrays = {name: getattr(trace, name).tolist() for name in ("scores", "held_out", "clock")}
    return arrays | {"thinking": trace.thinking, "points": trace.points}


def _trace(record: dict[str, object]) -> Trace:
    arrays = {name: np.array(record[name], float) for name in ("scores", "held_out", "clock")}
    return Trace(**arrays, thinking=record["thinking"], points=record["points"])
