"""Seconds a trial: `python -m bhsearch.run` against the scripts that one writes without it, all run in turn.

Every run is a whole process. Ours starts in an empty folder, with an empty cache or, where a variant is called warm,
with the cache of the same study. Its time is all of it, from the start of Python to the last run in MLflow, divided by
the number of trials. Of the plain scripts only the trials count, not their start: they are given few of them, and a
start-up spread over few trials would weigh more than in a real search. All images are read once beforehand, so that
neither side pays for a cold disk.

    python experiments/benchmarks/trial_speed.py --data path/to/BreaKHis_v1 --weights-dir path/to/weights

The table can go into a README as it is. Let the machine do nothing else meanwhile; the load is printed above the table.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PLAIN_SCRIPTS = {
    "plain Optuna script": "plain_optuna.py",
    "KerasTuner's own loop": "plain_keras_tuner.py",
    "Ray Tune, ASHA over folds": "plain_ray.py",
}
WARM = ", warm"  # end of the name of a variant that finds its features in the cache
VARIANTS = {
    "96 px": ("--image-size", "96"),
    f"96 px{WARM}": ("--image-size", "96"),
    "default size": (),
    "96 px, no tracking": ("--image-size", "96", "--no-tracking"),
    "default size, no tracking": ("--no-tracking",),
}


@dataclass(frozen=True)
class OurRun:
    """Where the wall seconds of one study went.

    Attributes:
        before: From the start of Python to the first trial: imports, data, pixels, backbones.
        trials: From the first trial to the end of the last, features computed on the way included.
        after: Ranking, and waiting for what is still to be logged.
        n_trials: Finished trials.
        processor: Processor seconds of all processes.
    """

    before: float
    trials: float
    after: float
    n_trials: int
    processor: float

    @property
    def seconds_a_trial(self) -> float:
        """Everything included."""
        return (self.before + self.trials + self.after) / self.n_trials


def run(command: Sequence[str], folder: Path, python: str = sys.executable) -> tuple[str, float, float]:
    """Run a process in a folder. Returns what it printed, and the times of its start and end."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {"BHSEARCH_CACHE": str(folder / "cache"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    started = time.time()
    done = subprocess.run([python, *command], cwd=folder, env=environment, capture_output=True, text=True)
    ended = time.time()
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
    return done.stdout, started, ended


def run_plain(options: argparse.Namespace, name: str, folder: Path) -> float:
    """Seconds a trial of a plain script, its start-up left out."""
    script = PLAIN_SCRIPTS[name]
    is_ray = script == "plain_ray.py"
    command = [str(Path(__file__).with_name(script)), *_places(options), "--trials", str(options.plain_trials)]
    python = options.ray_python if is_ray else sys.executable
    printed, _, _ = run(
        [*command, "--folds", str(options.folds), "--epochs", str(options.plain_epochs)], folder, python
    )
    match = re.search(r"([\d.]+) seconds a trial", printed)
    if match is None:
        raise SystemExit(f"{script} must print its seconds a trial, but printed:\n{printed}")
    print(printed.splitlines()[-2], file=sys.stderr)  # on how many images, and how well
    return float(match[1])


def run_ours(options: argparse.Namespace, name: str, folder: Path) -> OurRun:
    """One study of ours in an empty folder; the times within come from its Optuna storage."""
    command = ["-m", "bhsearch.run", *_places(options), "--trials", str(options.trials), "--folds", str(options.folds)]
    command += ["--backbones", options.backbones, *VARIANTS[name]]
    if name.endswith(WARM):
        run(command, folder)
        for kept in folder.iterdir():  # of the first run, only the cache stays
            if kept.name != "cache":
                shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _, started, ended = run(command, folder)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime

    import optuna

    storage = f"sqlite:///{folder / 'optuna.db'}"
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    finished = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if len(finished) != options.trials or len(trials) != options.trials:
        raise SystemExit(f"All {options.trials} trials must be complete, but {len(finished)} of {len(trials)} are.")
    first = _seconds(min(trial.datetime_start for trial in finished))
    last = _seconds(max(trial.datetime_complete for trial in finished))
    return OurRun(first - started, last - first, ended - last, len(finished), processor)


def tables(plain: dict[str, Sequence[float]], ours: dict[str, Sequence[OurRun]]) -> str:
    """Two Markdown tables: seconds a trial with the ratios of each round, and where our time went.

    Args:
        plain: Seconds a trial per plain script and round.
        ours: Runs per variant, in the same rounds.
    """
    heads = [f"times as fast as {name}" for name in plain]
    lines = [f"| | trials | seconds a trial | {' | '.join(heads)} |", "| --- " * (3 + len(plain)) + "|"]
    lines += [f"| {name}, 96 px | | {_spread(seconds, 1)} |{' |' * len(plain)}" for name, seconds in plain.items()]
    for name, runs in ours.items():
        seconds = [each.seconds_a_trial for each in runs]
        ratios = [_spread([a / b for a, b in zip(each, seconds, strict=True)], 0) for each in plain.values()]
        lines.append(f"| bhsearch, {name} | {runs[0].n_trials} | {_spread(seconds, 2)} | {' | '.join(ratios)} |")
    lines += ["", "| seconds of a whole study | before the first trial | trials | after the last trial | processor |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name, runs in ours.items():
        kinds = ("before", "trials", "after", "processor")
        parts = [statistics.median(getattr(each, part) for each in runs) for part in kinds]
        lines.append(f"| {name} | " + " | ".join(f"{part:.1f}" for part in parts) + " |")
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    """Median, and from least to most where there is more than one value."""
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _places(options: argparse.Namespace) -> list[str]:
    return ["--data", str(options.data.resolve()), "--weights-dir", str(options.weights_dir.resolve())]


def _seconds(moment: datetime.datetime | None) -> float:
    if moment is None:
        raise SystemExit("A finished trial must have a start and an end.")
    return moment.timestamp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of BreakHis images, at any depth")
    parser.add_argument("--weights-dir", type=Path, required=True, help="folder of Keras weight files")
    parser.add_argument("--rounds", type=int, default=2, help="times that everything is run (2)")
    parser.add_argument("--trials", type=int, default=50, help="of ours (50)")
    parser.add_argument(
        "--plain", nargs="+", choices=PLAIN_SCRIPTS, default=list(PLAIN_SCRIPTS)[:2], help="scripts (all but Ray Tune)"
    )
    parser.add_argument("--ray-python", default=sys.executable, help="Python that has ray[tune] (this one)")
    parser.add_argument("--plain-trials", type=int, default=3, help="of each plain script (3)")
    parser.add_argument("--plain-epochs", type=int, default=10, help="of a fit of a plain script (10)")
    parser.add_argument("--folds", type=int, default=5, help="of both (5)")
    parser.add_argument("--backbones", default="auto", help="of ours (auto: filters, and all whose weights are there)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="of ours (all)")
    options = parser.parse_args()

    for file in options.data.rglob("*.png"):
        file.read_bytes()
    plain: dict[str, list[float]] = {name: [] for name in options.plain}
    ours: dict[str, list[OurRun]] = {name: [] for name in options.variants}
    for number in range(1, options.rounds + 1):
        for script, seconds in plain.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds.append(run_plain(options, script, Path(folder)))
            print(f"round {number}: {script} {seconds[-1]:.2f} s a trial", file=sys.stderr)
        for name, runs in ours.items():
            with tempfile.TemporaryDirectory() as folder:
                runs.append(run_ours(options, name, Path(folder)))
            print(f"round {number}: ours, {name}: {runs[-1].seconds_a_trial:.2f} s a trial", file=sys.stderr)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{os.cpu_count()} cores, load at the end {load:.1f}; {options.rounds} rounds, median (least to most).\n")
    print(tables(plain, ours))


if __name__ == "__main__":
    main()
