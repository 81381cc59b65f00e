"""Compare Optuna's samplers, KerasTuner's oracles, pruners, warm starts and the stop rule on recorded trials.

Every search is replayed on a simulated clock, once per seed; the tables and the figure are printed from these replays
alone. With `--keep` the replays are kept, and the next run goes on from there.

    python -m experiments.benchmarks.engines.compare --table experiments/benchmarks/engines/table.json.gz \
        --figure experiments/pictures/engines.png --keep replays
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from bhsearch.errors import BhsearchError
from bhsearch.reporting.figures.style import to_png
from bhsearch.study.context import FINETUNE, FROZEN
from experiments.benchmarks.engines import rules, table
from experiments.benchmarks.engines.contenders import CONTENDERS, PLAIN_FIRST, SHIPPED, plain_heads
from experiments.benchmarks.engines.drawing import figure
from experiments.benchmarks.engines.judging import Best, best_of
from experiments.benchmarks.engines.pruners import all_pruners
from experiments.benchmarks.engines.replay import Trace
from experiments.benchmarks.engines.runs import Arena, Runs, arena_of
from experiments.benchmarks.engines.tables import (
    contenders_table,
    costs_table,
    kinds_table,
    pruners_table,
    recorded_table,
    seconds_table,
)

SLOW = ("keras-tuner bayesian",)  # its Gaussian process takes longer with each trial
LEARNT = (SHIPPED, "optuna random")  # whose prospects are looked at


def compared(options: argparse.Namespace) -> None:
    """Replay what is not kept, print the tables and draw the figure."""
    tables = table.read(options.table)
    frozen, finetune = ([each for each in tables.values() if each.facts["regime"] == r] for r in (FROZEN, FINETUNE))
    best = {each.name: best_of(each.scored) for each in tables.values()}
    print("Recorded\n\n" + recorded_table(tables))
    print(f"\nCosts of all trials of a frozen space\n\n{costs_table(frozen)}")
    print(f"\nThe best trial of each kind\n\n{kinds_table(frozen)}", flush=True)
    runs, arenas = Runs(options.keep, _say), [arena_of(each) for each in frozen]
    found = {arena.name: _traces(runs, arena, options) for arena in arenas}
    for name, traces in found.items():
        print(f"\nSearches on {name} (best {best[name].score:.4f}; on cases put aside {best[name].held_out:.4f})\n")
        print(contenders_table(name, traces, best[name], options.trials))
        print(f"\n{seconds_table(name, traces, best[name])}", flush=True)
    pruned = {}
    for each in finetune:
        pruned[each.name] = all_pruners(each, range(options.seeds)), best[each.name]
        print(f"\nPruners on {each.name}\n\n{pruners_table('pruner', *pruned[each.name])}", flush=True)
    if SHIPPED in options.contenders.split(","):
        _print_rules(runs, arenas, found, best, options)
    if options.figure is not None:
        rows = {name: (traces, best[name]) for name, traces in found.items()}
        drawn = Image.open(io.BytesIO(to_png(figure({**rows, **pruned}, options.seeds))))
        # A figure of few colours is a third as large with a palette.
        drawn.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(options.figure, "PNG", optimize=True)


def _traces(runs: Runs, arena: Arena, options: argparse.Namespace) -> dict[str, list[Trace]]:
    """Replay every contender, and the default one after all linear heads without augmentation."""
    names, seeds = options.contenders.split(","), range(options.seeds)
    found = {}
    for name in names:
        n_trials = min(options.slow_trials, options.trials) if name in SLOW else options.trials
        found[name] = runs.traces(arena, name, CONTENDERS[name], seeds, n_trials)
    if SHIPPED in names:
        first = [plain_heads(arena.space)] * options.seeds
        found[PLAIN_FIRST] = runs.traces(arena, PLAIN_FIRST, CONTENDERS[SHIPPED], seeds, options.trials, first)
    return found


def _print_rules(
    runs: Runs,
    arenas: Sequence[Arena],
    found: Mapping[str, Mapping[str, list[Trace]]],
    best: dict[str, Best],
    options: argparse.Namespace,
) -> None:
    if len(arenas) > 1:
        warm = rules.warm_table(runs, arenas, best, CONTENDERS[SHIPPED], range(options.seeds), options.trials)
        print(f"\nWarm start, {SHIPPED}\n\n{warm}")
    asked_of = [arena for arena in arenas if arena.name in rules.BUDGETS]
    if asked_of:
        planned = rules.budget_table(runs, asked_of, best, CONTENDERS[SHIPPED], range(options.seeds), options.trials)
        print(f"\nBudgets, {SHIPPED}\n\n{planned}")
    shipped = {name: traces[SHIPPED] for name, traces in found.items()}
    print(f"\nThe stop rule, {SHIPPED}\n\n{rules.stop_table(shipped, best)}")
    asked = {name: {each: traces[each] for each in LEARNT if each in traces} for name, traces in found.items()}
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
    made.add_argument("--trials", type=int, default=100, help="of each study (100)")
    made.add_argument("--slow-trials", type=int, default=50, help=f"of each study of {', '.join(SLOW)} (50)")
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
