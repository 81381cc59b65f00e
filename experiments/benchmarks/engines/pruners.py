"""Pruners on the recorded finetune trials: a random search that draws from them, each pruner ending what it would."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from optuna.storages import InMemoryStorage

from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.engines.optuna.pruners import PRUNERS
from bhsearch.models.training.finetune import EVALS_PER_FOLD
from bhsearch.objectives.space import Parameter, finetune_space
from experiments.benchmarks.engines.replay import Trace, replay_pruned
from experiments.benchmarks.engines.table import Table


def space_of(table: Table) -> tuple[Parameter, ...]:
    """The finetune space that a table was recorded from."""
    return finetune_space(tuple(table.facts["backbones"]), (table.facts["image_size"],))


def pruned_traces(table: Table, pruner: str, seeds: Sequence[int]) -> list[Trace]:
    """One study per seed, over all recorded trials in an order of its own."""
    return [_study(table, pruner, seed) for seed in seeds]


def _study(table: Table, pruner: str, seed: int) -> Trace:
    entries = random.Random(seed).sample(table.scored, len(table.scored))
    study = open_study(InMemoryStorage(), "replay", {})
    engine = OptunaEngine(study, space_of(table), "random", seed, pruner, EVALS_PER_FOLD)
    return replay_pruned(engine, entries)


def all_pruners(table: Table, seeds: Sequence[int]) -> dict[str, list[Trace]]:
    """Studies of every pruner."""
    return {name: pruned_traces(table, name, seeds) for name in PRUNERS}


def pruned_share(traces: Sequence[Trace]) -> float:
    """Share of the trials that were ended before their time."""
    return float(np.mean([np.isnan(trace.scores).mean() for trace in traces]))
