"""Replays of a contender over seeds, kept in a folder so that a comparison goes on where it was stopped."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bhsearch.objectives.costs import FeatureCosts
from bhsearch.objectives.space import Parameter, Params, frozen_space
from experiments.benchmarks.engines.contenders import Make
from experiments.benchmarks.engines.replay import Answers, Budget, Recorded, Trace, replay
from experiments.benchmarks.engines.table import Table


@dataclass(frozen=True)
class Arena:
    """A recorded frozen space in which studies are replayed.

    Attributes:
        name: Name of the table.
        space: Search space.
        answers: Returns the result of a point.
        costs: Costs of features that are stored with each study.
    """

    name: str
    space: tuple[Parameter, ...]
    answers: Answers
    costs: FeatureCosts = field(default_factory=FeatureCosts)


def arena_of(table: Table) -> Arena:
    """Return the arena of a frozen table."""
    seconds = {backbone: float(np.mean(list(views.values()))) for backbone, views in table.features.items()}
    space = frozen_space(tuple(table.facts["backbones"]))
    return Arena(table.name, space, Recorded(table), FeatureCosts(seconds))


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
        budget_seconds: float | None = None,
    ) -> list[Trace]:
        """One replay per seed.

        Args:
            arena: Where.
            name: Of the contender; with the arena and the number of trials it says which replays these are.
            make: Makes its engine.
            seeds: Of the studies.
            n_trials: Of each.
            first: Points that each study begins with; none where None.
            budget_seconds: Budget of each study on the simulated clock; None for no budget.
        """
        budget = None if budget_seconds is None else Budget(budget_seconds, arena.costs, arena.space)
        kept = self._read(arena, name, n_trials)
        made = []
        for row, seed in enumerate(seeds):
            if seed not in kept:
                with tempfile.TemporaryDirectory() as folder:
                    engine = make(arena.space, seed, Path(folder))
                    engine.save_costs(arena.costs.to_record())
                    start = first[row] if first is not None else ()
                    kept[seed] = replay(engine, arena.answers, n_trials, start, budget)
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
