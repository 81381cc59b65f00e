"""A study on a Ray cluster of two nodes on this machine, with one CPU each: a lost node, and trials a second.

Storage is a PostgreSQL and tracking an MLflow server, both started for the benchmark (Debian: postgresql). Every study
is run by `bhsearch run --launcher ray`, as a user would. The parts:

* `lost`: real trials, of which a node with all its processes is killed after a third.
* `waiting`: trials that also wait two seconds without using a processor, with one worker and with two.
* `real`: the same with real trials.

The trials that wait are those of a plugin, a sampler of random points whose module lets the objective sleep; its entry
point is found in a folder on PYTHONPATH. Trials a second are all trials over the seconds from the start of the first to
the end of the last, so that the unequal starts of workers count.

    python -m experiments.benchmarks.ray_cluster --parts lost waiting real
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna

from tests.faults.mlflow_server import mlflow_server
from tests.faults.postgres import Postgres, postgres
from tests.studies import Store
from tests.study.workers.launchers.ray_cluster import RayCluster, ray_cluster

DATA = ["--data", "phantom:cases=24,images=3", "--backbones", "staintex-s", "--image-size", "48", "--folds", "3"]
STUDY = "cluster"
PLUGIN = """
import time
from optuna.samplers import RandomSampler
from bhsearch.objectives.frozen import FrozenObjective

learned = FrozenObjective.__call__

def waiting(self, params, on_report=None):
    time.sleep({seconds})
    return learned(self, params, on_report)

FrozenObjective.__call__ = waiting

class Waiting:
    learns = False
    def __call__(self, seed, study_seed, n_done):
        return RandomSampler(seed)

SAMPLER = Waiting()
"""
WAIT_SECONDS = 2.0
ENTRY = "[bhsearch.samplers]\nwaiting = waiting_trials:SAMPLER\n"


def install_plugin(folder: Path) -> None:
    """Write the plugin and its metadata into a folder, as `pip install --target` would."""
    facts = folder / "waiting_trials-1.0.dist-info"
    facts.mkdir(parents=True)
    (folder / "waiting_trials.py").write_text(PLUGIN.format(seconds=WAIT_SECONDS))
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: waiting-trials\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(ENTRY)


@contextmanager
def started(
    folder: Path, cluster: RayCluster, storage: str, uri: str, *words: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a study on the cluster; the command has ended after the block."""
    folder.mkdir()
    command = [sys.executable, "-m", "bhsearch", "run", "--study", STUDY, *DATA, *cluster.options(), *words]
    variables = {**os.environ, "BHSEARCH_STORAGE": storage, "MLFLOW_TRACKING_URI": uri}
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=output, stderr=subprocess.STDOUT)
        yield process
        if process.wait(timeout=900) != 0:
            sys.exit((folder / "output").read_text())


@contextmanager
def connected(storage: str) -> Iterator[Callable[[], list[Any]]]:
    """A function that returns the trials of the study; none if it does not exist yet."""
    opened = optuna.storages.RDBStorage(storage)

    def trials() -> list[Any]:
        names = optuna.get_all_study_names(opened)
        return optuna.load_study(study_name=STUDY, storage=opened).trials if STUDY in names else []

    try:
        yield trials
    finally:
        opened.remove_session()
        opened.engine.dispose()


def lose_a_node(folder: Path, database: Postgres, n_trials: int) -> None:
    """Run a study of which a node is lost after a third of the trials, and print what is left."""
    storage = database.new_database()
    with mlflow_server(folder / "server") as server, ray_cluster() as cluster:
        words = ["--workers", "2", "--trials", str(n_trials)]
        with started(folder / "work", cluster, storage, server.uri, *words), connected(storage) as read:
            while sum(trial.state.is_finished() for trial in read()) < n_trials // 3:
                time.sleep(0.1)
            lost = cluster.lose(read)
        with connected(storage) as read:
            trials = read()
        runs = Store(folder / "server", server.uri).children()
    states = Counter(trial.state.name for trial in trials)
    retried = [trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs]
    print("| after a lost node | |\n| --- | --- |")
    print(f"| trial that ran on the node | {lost} |")
    for state, n in states.items():
        print(f"| trials {state} in PostgreSQL | {n} |")
    for status, n in Counter(run.info.status for run in runs.values()).items():
        print(f"| runs {status} in MLflow | {n} |")
    print(f"| trials with two runs, or without a run | {len(set(runs) ^ {trial.number for trial in trials})} |")
    print(f"| trials run again | {', '.join(str(number) for number in retried) or 'none'} |\n")


def trials_a_second(folder: Path, database: Postgres, n_workers: int, *words: str) -> float:
    """Run a study, and return all trials over the seconds from the start of the first to the end of the last."""
    storage = database.new_database()
    folder.mkdir()
    with (
        mlflow_server(folder / "server") as server,
        ray_cluster() as cluster,
        started(folder / "work", cluster, storage, server.uri, "--workers", str(n_workers), *words),
    ):
        pass
    with connected(storage) as read:
        trials = read()
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    owners = {(owner["host"], owner["pid"]) for owner in (t.system_attrs["bhsearch:owner"] for t in trials)}
    assert len(owners) == n_workers, owners
    seconds = max(trial.datetime_complete for trial in trials) - min(trial.datetime_start for trial in trials)
    return len(trials) / seconds.total_seconds()


def compare(folder: Path, database: Postgres, name: str, n_rounds: int, *words: str) -> None:
    """Print the rates of one worker and of two, in turn."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for k in range(n_rounds):
        for n_workers, found in rates.items():
            found.append(trials_a_second(folder / f"{name}-{k}-{n_workers}", database, n_workers, *words))
    print(f"| workers, {name} trials | trials a second | times | of linear |\n| --- | --- | --- | --- |")
    one = max(rates[1])
    for n_workers, found in rates.items():
        rounds = ", ".join(f"{rate:.3f}" for rate in found)
        times = max(found) / one
        print(f"| {n_workers} | {max(found):.3f} (rounds: {rounds}) | {times:.2f} | {times / n_workers:.2f} |")
    print(f"\nload: {os.getloadavg()[0]:.1f}, processors: {os.cpu_count()}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("lost", "waiting", "real"), default=["lost", "waiting", "real"])
    parser.add_argument("--trials", type=int, default=60, help="real trials of a study")
    parser.add_argument("--waiting", type=int, default=40, help="trials of a study that wait")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, postgres() as database:
        folder = Path(name)
        install_plugin(folder / "plugin")
        # Before the cluster starts, whose nodes take it over.
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder / "plugin"), str(Path.cwd())])
        if "lost" in options.parts:
            (folder / "lost").mkdir()
            lose_a_node(folder / "lost", database, options.trials)
        if "waiting" in options.parts:
            words = ["--sampler", "waiting", "--heads", "linear", "--trials", str(options.waiting)]
            compare(folder, database, "waiting", options.rounds, *words)
        if "real" in options.parts:
            words = ["--sampler", "random", "--trials", str(options.trials)]
            compare(folder, database, "real", options.rounds, *words)


if __name__ == "__main__":
    main()
