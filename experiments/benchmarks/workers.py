"""Trials a second with one worker and with two, each with one thread, once everything is in the cache.

Both are run in turn on the same finished caches, without tracking, so that workers and storage are measured and not the
processes that log. The time is that of the trials alone, from the start of the first to the end of the last one.

    python experiments/benchmarks/workers.py --data phantom --trials 60

Beside it stands how much of the machine's processors the default uses: the processor seconds of all processes of a
command over its wall seconds.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna

WARM = 2  # sittings before the clock runs: the first one fills the caches


def trials_a_second(folder: Path, name: str) -> float:
    """Finished trials over the seconds from the start of the first to the end of the last."""
    storage = f"sqlite:///{folder}/optuna.db"
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete is not None]
    starts = [trial.datetime_start for trial in trials if trial.datetime_start is not None]
    return len(trials) / (max(ends) - min(starts)).total_seconds()


def search(folder: Path, name: str, *options: str) -> float:
    """Run a study. Returns the processors that it kept busy, on average."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "bhsearch.run", "--study", name, "--quiet", *options]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used / (time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="phantom", help="folder of images; default: the phantom")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f}, processors: {os.cpu_count()}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = options.data if options.data.startswith("phantom") else str(Path(options.data).resolve())
        words = ("--data", data, "--trials", str(options.trials), "--sampler", "random")
        for k in range(WARM):
            search(folder, f"warm {k}", *words, "--no-tracking")
        rates: dict[int, list[float]] = {1: [], 2: []}
        for k in range(options.rounds):
            for workers, found in rates.items():
                search(folder, f"{workers} {k}", *words, "--no-tracking", "--workers", str(workers))
                found.append(trials_a_second(folder, f"{workers} {k}"))
        busy = search(folder, "default", *words)
    print("| workers of one thread | trials a second | times |\n| --- | --- | --- |")
    one = max(rates[1])
    for workers, found in rates.items():
        rounds = ", ".join(f"{rate:.2f}" for rate in found)
        print(f"| {workers} | {max(found):.2f} (rounds: {rounds}) | {max(found) / one:.2f} |")
    print(f"\nThe default, with tracking, kept {busy:.2f} of {os.cpu_count()} processors busy.")


if __name__ == "__main__":
    main()
