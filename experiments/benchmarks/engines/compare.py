"""Compare Optuna's samplers, KerasTuner's oracles, pruners, warm starts and the stop rule on recorded trials.

Every search is replayed on a simulated clock, once per seed; the tables and the figure are printed from these replays
alone. With `--keep` the replays are kept, and the next run goes on from there.

    python -m experiments.benchmarks.engines.compare --table experiments/benchmarks/engines/table.json.gz \
        --figure experiments/pictures/engines.png --keep replays
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bhsearch.errors import BhsearchError
from bhsearch.reporting.figures.style import to_png
from bhsearch.study.context import FINETUNE, FROZEN
from experiments.benchmarks.engines import rules, surrogate, table
from experiments.benchmarks.engines.contenders import CONTENDERS, SHIPPED
from experiments.benchmarks.engines.drawing import figure
from experiments.benchmarks.engines.judging import Best, best_of, surrogate_best
from experiments.benchmarks.engines.pruners import all_pruners, best_recorded
from experiments.benchmarks.engines.replay import Trace
from experiments.benchmarks.engines.runs import Arena, Runs, arena_of, grid_arena_of
from experiments.benchmarks.engines.table import Table
from experiments.benchmarks.engines.tables import contenders_table, pruners_table, recorded_table

# Its Gaussian process thinks for most of a second a trial, and longer with every one.
SLOW = {"keras-tuner bayesian"}
PACED = {"keras-tuner hyperband"}  # wants a range of epochs, which the part recorded in full has not
LEARNT = (SHIPPED, "optuna random")  # whose prospects are looked at


class Comparison:
    """All replays of the frozen tables.

    Args:
        options: Of the command.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.tables = table.read(options.table)
        self.runs = Runs(options.keep, _say)
        self.found: dict[str, dict[str, list[Trace]]] = {}
        self.best: dict[str, Best] = {}
        frozen = self.of(FROZEN)
        self.arenas = [arena_of(each) for each in frozen]
        self.grids = [grid_arena_of(each) for each in frozen]

    def of(self, regime: str) -> list[Table]:
        """The tables of a regime."""
        return [each for each in self.tables.values() if each.facts["regime"] == regime]

    def run(self) -> None:
        """Replay every contender in every arena."""
        for arena in (*self.arenas, *self.grids):
            names = [name for name in self._options.contenders.split(",") if arena in self.arenas or name not in PACED]
            self.found[arena.name] = {name: self._traces(arena, name) for name in names}
            every = [trace for traces in self.found[arena.name].values() for trace in traces]
            self.best[arena.name] = best_of(self._start(arena), every)

    def _traces(self, arena: Arena, name: str) -> list[Trace]:
        slow = name in SLOW
        seeds = range(min(self._options.slow_seeds, self._options.seeds) if slow else self._options.seeds)
        n_trials = min(self._options.slow_trials, self._options.trials) if slow else self._options.trials
        return self.runs.traces(arena, name, CONTENDERS[name], seeds, n_trials)

    def _start(self, arena: Arena) -> Best:
        if arena in self.arenas:
            return surrogate_best(arena.space, arena.answers)
        entries = [entry for entry in arena.table.scored if entry.design == "grid"]
        return Best(max(entry.score for entry in entries), max(entry.held_out for entry in entries))

    def shipped(self, arenas: Sequence[Arena]) -> dict[str, list[Trace]]:
        """Replays of our default."""
        return {arena.name: self.found[arena.name][SHIPPED] for arena in arenas}


def compared(options: argparse.Namespace) -> None:
    """Replay what is not kept, print the tables and draw the figure."""
    made = Comparison(options)
    print("Recorded\n\n" + recorded_table(made.tables))
    print(f"\nThe surrogate's error\n\n{surrogate.HEAD}")
    for each in made.of(FROZEN):
        print(surrogate.rows(each), flush=True)
    made.run()
    for arena in (*made.arenas, *made.grids):
        best = made.best[arena.name]
        print(f"\nSearches on {arena.name} (best {best.score:.4f}; on cases put aside {best.held_out:.4f})\n")
        print(contenders_table(arena.name, made.found[arena.name], best, options.trials), flush=True)
    pruned = {}
    for each in made.of(FINETUNE):
        pruned[each.name] = all_pruners(each, range(options.seeds)), best_recorded(each)
        print(f"\nPruners on {each.name}\n\n{pruners_table('pruner', *pruned[each.name])}", flush=True)
    _print_rules(made, options)
    if options.figure is not None:
        rows = {arena.name: (made.found[arena.name], made.best[arena.name]) for arena in made.arenas}
        options.figure.write_bytes(to_png(figure({**rows, **pruned}, options.seeds)))


def _print_rules(made: Comparison, options: argparse.Namespace) -> None:
    if SHIPPED not in options.contenders.split(","):
        return
    seeds = range(options.seeds)
    if len(made.arenas) > 1:
        warm = rules.warm_table(made.runs, made.arenas, made.best, CONTENDERS[SHIPPED], seeds, options.trials)
        print(f"\nWarm start, {SHIPPED}\n\n{warm}")
    print(f"\nThe stop rule, {SHIPPED}\n\n{rules.stop_table(made.shipped(made.arenas), made.best)}")
    asked = {
        arena.name: {name: made.found[arena.name][name] for name in LEARNT if name in made.found[arena.name]}
        for arena in made.arenas
    }
    print(f"\nWhat more trials would bring\n\n{rules.prospects_table(asked)}")


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--table", type=Path, default=table.FILE, help=f"the table ({table.FILE.name} beside this)")
    made.add_argument("--figure", type=Path, help="PNG file to draw")
    made.add_argument("--keep", type=Path, help="folder that replays are kept in")
    made.add_argument("--contenders", default=",".join(CONTENDERS), help="comma between (all)")
    made.add_argument("--seeds", type=int, default=30, help="studies of each search (30)")
    made.add_argument("--trials", type=int, default=200, help="of each study (200)")
    made.add_argument("--slow-seeds", type=int, default=10, help=f"studies of {', '.join(SLOW)} (10)")
    made.add_argument("--slow-trials", type=int, default=100, help="trials of these (100)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    try:
        compared(options)
    except BhsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
