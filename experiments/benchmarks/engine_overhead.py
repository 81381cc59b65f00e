"""What an engine costs beside the training: seconds from asking for a trial to its score being told, in a full study.

Studies of the frozen space with 50, 500 and 5,000 finished trials, each engine with each of its samplers, in the
storage that it has by default. A study is filled with the trials that its sampler would have made where these cost
little, and with random points for all of Optuna's and for the Gaussian process; the scores are a smooth function of the
point. Then it is opened as by a new process, but for imports; one trial is asked for and told, which reads the whole
study, and ten more are timed. A sampler that thinks longer than the cut-off over one point is given up. Both are
seconds of the processor, which other work on the machine does not change much; seconds of the clock stand beside.

Times are kept in the file of `--data`, and a run goes on where another stopped: delete the file to measure anew.

    python experiments/benchmarks/engine_overhead.py --data overhead.json --figure overhead.png
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import create_trial

from bhsearch.engines.base import Engine
from bhsearch.engines.keras_tuner import journal as keras_tuner_store
from bhsearch.engines.keras_tuner.engine import KerasTunerEngine
from bhsearch.engines.optuna import distributions as optuna_distributions
from bhsearch.engines.optuna import engine as optuna_engine
from bhsearch.engines.optuna.engine import OptunaEngine
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.engines.registry import ENGINES
from bhsearch.errors import BhsearchError, DataError
from bhsearch.objectives.space import LOG10_PENALTY, Params, frozen_space
from bhsearch.reporting.figures.palette import CYCLE, INK
from bhsearch.reporting.figures.style import DASHED, new_figure, place_axes, to_png

OPTUNA, KERAS_TUNER = ENGINES.built_in

BACKBONES = ("staintex-s", "staintex-l", "mobilenet-0.25", "mobilenet-0.75")
SPACE = frozen_space(BACKBONES)
CASES = [
    (engine, sampler)
    for engine in ENGINES.built_in
    for sampler in ENGINES.get(engine).samplers()
    if sampler not in ENGINES.get(engine).capabilities.paced
]
SIZES = (50, 500, 5000)
N_TIMED = 10
# KerasTuner's oracles keep a place in what they do; a random point has none in a grid.
_FILLED_BY_ITSELF = ((KERAS_TUNER, "random"), (KERAS_TUNER, "grid"))


class TooLongError(Exception):
    """A sampler thought for longer than the cut-off."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """End the block with `TooLongError` after some seconds of work, as soon as Python has the word again."""

    def end(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        # A signal on its way to another thread would end the process under the default action.
        signal.signal(signal.SIGPROF, signal.SIG_IGN if before is signal.SIG_DFL else before)


def score_of(params: Params) -> float:
    """Some smooth score with one best point."""
    distance = params["log10_penalty"] - LOG10_PENALTY.start
    return 0.9 - 0.01 * distance**2 - 0.0001 * params["hidden_units"] + 0.02 * params["tta"]


def opened(folder: Path, engine: str, sampler: str) -> Engine:
    """The study of a folder, as a process that has just started opens it."""
    if engine == KERAS_TUNER:
        study = keras_tuner_store.open_study(folder, "study", {})
        return KerasTunerEngine(study, SPACE, sampler, 0)
    storage = connect(f"sqlite:///{folder}/optuna.db")
    return OptunaEngine(optuna_engine.open_study(storage, "study", {}), SPACE, sampler, 0)


def one_trial(study: Engine) -> None:
    """Ask and tell; scoring is nothing beside."""
    trial = study.ask()
    study.complete(trial.number, score_of(trial.params), 0.1)


def fill(folder: Path, engine: str, sampler: str, n_trials: int) -> None:
    """Bring a study to a number of finished trials."""
    folder.mkdir(parents=True, exist_ok=True)
    if engine == OPTUNA:
        _fill_optuna(folder, n_trials)
    elif (engine, sampler) in _FILLED_BY_ITSELF:
        study = opened(folder, engine, sampler)
        for _ in range(n_trials):
            one_trial(study)
    else:
        fill(folder, engine, "random", n_trials)
        journal = folder / "study" / "trials.jsonl"
        journal.write_text(journal.read_text().replace('"sampler": "random"', f'"sampler": "{sampler}"'))


def _fill_optuna(folder: Path, n_trials: int) -> None:
    memory = optuna.create_study(sampler=optuna.samplers.RandomSampler(0), direction="maximize")
    distributions = {row.name: optuna_distributions.distribution(row) for row in SPACE}
    trials = []
    for _ in range(n_trials):
        trial = memory.ask(distributions)
        notes = {"seconds": 0.1, "owner": {"host": "here", "pid": 1, "started": 1.0}}
        trials.append(
            create_trial(
                params=trial.params, distributions=distributions, value=score_of(trial.params), user_attrs=notes
            )
        )
        memory.tell(trial, trials[-1].value)
    storage = connect(f"sqlite:///{folder}/optuna.db")
    optuna_engine.open_study(storage, "study", {}).add_trials(trials)


def measure(folder: Path, engine: str, sampler: str, most: float) -> dict[str, Any]:
    """Times of a full study.

    Returns:
        `first`, seconds of the first trial after opening, and `mean` of those after it, each of processor and
        clock; None where it was given up.
    """
    found: dict[str, Any] = {"first": None, "mean": None}
    try:
        with limit(most):
            before = _now()
            study = opened(folder, engine, sampler)
            one_trial(study)
            found["first"] = list(_now() - before)
        before = _now()
        for _ in range(N_TIMED):
            with limit(most):
                one_trial(study)
        found["mean"] = list((_now() - before) / N_TIMED)
    except TooLongError:
        pass
    return found


def _now() -> np.ndarray:
    """Seconds of the processor, and of the clock."""
    return np.array([time.process_time(), time.perf_counter()])


def key(engine: str, sampler: str, size: int) -> str:
    return f"{engine}/{sampler}/{size}"


def measured(kept: dict[str, Any], file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure what a file does not have yet, and keep it there."""
    from bhsearch.engines.keras_tuner import oracles as keras_tuner_oracles

    assert keras_tuner_oracles  # seconds of imports, which a study has anyway
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as root:
            for engine, sampler in CASES:
                name = key(engine, sampler, size)
                if name in kept["times"]:
                    continue
                folder, shared = Path(root) / name.replace("/", "-"), Path(root) / f"{engine}-filled"
                if engine == OPTUNA:  # filled once for all its samplers
                    if not shared.exists():
                        fill(shared, engine, sampler, size)
                    shutil.copytree(shared, folder)
                else:
                    fill(folder, engine, sampler, size)
                kept["times"][name] = measure(folder, engine, sampler, options.most)
                kept["load"][name] = round(os.getloadavg()[0], 1)
                file.write_text(json.dumps(kept, indent=1), encoding="utf-8")
                print(f"{name}: {cell(kept, engine, sampler, size)} s", file=sys.stderr, flush=True)
    return kept


def cell(kept: dict[str, Any], engine: str, sampler: str, size: int, what: str = "mean") -> str:
    """Seconds of the processor, with those of the clock, or that it was given up."""
    found = kept["times"].get(key(engine, sampler, size))
    if found is None:
        return ""
    return f"over {kept['most']:g}" if found[what] is None else "{:.3g} ({:.3g})".format(*found[what])


def table(kept: dict[str, Any], sizes: Sequence[int]) -> str:
    """Rows of engine and sampler, columns of trials in the study."""
    last = sizes[-1]
    heads = ["engine", "sampler", *(f"{size:,} trials" for size in sizes), f"first after opening {last:,}"]
    lines = [f"| {' | '.join(heads)} |", "| --- | --- |" + " --- |" * (len(sizes) + 1)]
    for engine, sampler in CASES:
        cells = [engine, sampler, *(cell(kept, engine, sampler, size) for size in sizes)]
        cells.append(cell(kept, engine, sampler, last, "first"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(kept: dict[str, Any], sizes: Sequence[int]) -> bytes:
    """The table as curves."""
    figure = new_figure(
        "What an engine costs beside the training",
        "mean seconds of the processor, to ask for a trial and to tell its score",
    )
    axes = place_axes(figure, 0.7, 0.6, 1.75, 0.75)
    for engine, style in ((OPTUNA, "solid"), (KERAS_TUNER, DASHED)):
        for sampler, colour in zip(ENGINES.get(engine).samplers(), CYCLE, strict=False):
            found = {size: kept["times"].get(key(engine, sampler, size), {}).get("mean") for size in sizes}
            points = [(size, times[0]) for size, times in found.items() if times]
            if points:
                name = sampler if engine == OPTUNA else f"{sampler} (KerasTuner)"
                axes.plot(
                    *zip(*points, strict=True), color=colour, linestyle=style, marker="o", markersize=3, label=name
                )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("finished trials in the study", size=8, color=INK)
    axes.set_ylabel("seconds", size=8, color=INK)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return to_png(figure)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, required=True, help="JSON file where the times are kept")
    made.add_argument("--figure", type=Path, help="PNG file of the curves; none unless named")
    made.add_argument("--sizes", default=",".join(map(str, SIZES)), help="trials in the study, comma between")
    made.add_argument(
        "--most", type=float, default=60.0, help="seconds of work over one trial after which it is given up (60)"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser().parse_args(arguments)
    options.sizes = [int(size) for size in options.sizes.split(",")]
    try:
        kept: dict[str, Any] = {"most": options.most, "times": {}, "load": {}}
        if options.data.exists():
            kept = json.loads(options.data.read_text(encoding="utf-8"))
            if kept["most"] != options.most:
                raise DataError(f"{options.data} must be of --most {options.most:g}, but is of {kept['most']:g}.")
        kept = measured(kept, options.data, options)
    except BhsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    loads = kept["load"].values()
    print(
        f"{os.cpu_count()} cores, load {min(loads)} to {max(loads)}; mean of {N_TIMED}: processor's seconds (clock's)\n"
    )
    print(table(kept, options.sizes))
    if options.figure is not None:
        options.figure.write_bytes(draw(kept, options.sizes))
    return kept


if __name__ == "__main__":
    main()
