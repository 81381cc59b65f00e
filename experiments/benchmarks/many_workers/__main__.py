"""How well storage and tracking keep up with 2, 8 and 32 workers whose trials only sleep.

Workers run the real loop: they ask Optuna's TPE, store trials in PostgreSQL or in a journal, and put the records of a
real trial into the outbox of their command, whose uploader sends them to an MLflow server with a PostgreSQL of its own.
Only the objective is simulated: it sleeps for the time of a trial. Up to 8 workers share a command (see
`study.workers`); all commands share one outbox folder, one cache and this machine.

    python -m experiments.benchmarks.many_workers --output table.md

The efficiency of the search is the time that the finished trials slept, over the number of workers times the seconds
from the common start to the end of the last trial in the storage; with tracking, to the moment when MLflow has all.
Optuna's trials are all finished in both cases. Cells without tracking leave the processors to the storage.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from bhsearch.config import Settings
from bhsearch.errors import BhsearchError, RunError, SettingsError
from experiments.benchmarks.many_workers import workers
from experiments.benchmarks.many_workers.servers import Server, mlflow_server, postgres, processor_seconds
from experiments.benchmarks.many_workers.workers import FORK, Simulation

WORKERS, SECONDS, STORAGES = (2, 8, 32), (0.2, 2.0, 20.0), ("postgresql", "journal")
PER_COMMAND = 8  # workers that share an outbox and an uploader
UPLOADER = "bhsearch.tracking.upload.uploader"
_PARTS = ("lock", "read", "ask", "end")
_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Cell:
    """One row of the table.

    Attributes:
        storage: Kind of the storage.
        workers: Number of workers.
        seconds: Duration of a trial.
        tracking: Whether MLflow receives the trials.
        per_worker: Number of trials per worker.
    """

    storage: str
    workers: int
    seconds: float
    tracking: bool
    per_worker: int

    @property
    def trials(self) -> int:
        """Number of trials of the study."""
        return self.workers * self.per_worker


@dataclass(frozen=True)
class Found:
    """What a cell measured.

    Attributes:
        search: Seconds from the common start to the end of the last trial in the storage.
        tracked: Seconds from the common start until MLflow has all trials; nan without tracking.
        n_completed: Number of completed trials.
        parts: Mean seconds of a trial in each part of the loop.
        processor: Processor seconds of a trial by process.
        busy: Mean number of busy processors of the machine during the search, with other programs.
        connections: Largest number of connections to the storage.
        load: Load of the machine before the cell.
    """

    search: float
    tracked: float
    n_completed: int
    parts: dict[str, float]
    processor: dict[str, float]
    busy: float
    connections: int
    load: float


class Machine:
    """The servers and the real trial that all cells use.

    Args:
        folder: Temporary folder.
        storage: Server of the storage; None if no cell needs it.
        tracking: Processes by name that belong to the MLflow server; empty if no cell needs it.
        settings: Settings that all studies share.
    """

    def __init__(
        self, folder: Path, storage: Server | None, tracking: Mapping[str, psutil.Process], settings: Settings
    ) -> None:
        self._folder, self._storage, self._tracking, self._settings = folder, storage, tracking, settings
        file = folder / "result.pkl"
        _run([FORK.Process(target=workers.save_result, args=(replace(settings, storage=f"{folder}/x.db"), file))])
        self._result = workers.load_result(file)

    def measure(self, cell: Cell) -> Found:
        """Run a study, and measure it."""
        storage = self._storage if cell.storage == "postgresql" else None
        name = f"{cell.storage}-{cell.workers}-{cell.seconds:g}-{cell.tracking}"
        folder = self._folder / name
        folder.mkdir()
        sizes = [min(PER_COMMAND, cell.workers - first) for first in range(0, cell.workers, PER_COMMAND)]
        barrier = FORK.Barrier(cell.workers + 1)
        settings = replace(
            self._settings,
            study=name,
            storage=storage.url() if storage is not None else f"journal:{folder}/study.journal",
            trials=cell.trials,
            tracking=cell.tracking,
        )
        load = os.getloadavg()[0]
        commands = [
            FORK.Process(
                target=workers.run_command,
                args=(Simulation(replace(settings, workers=size), cell.seconds, self._result, barrier, folder),),
            )
            for size in sizes
        ]
        for command in commands:
            command.start()
        with _killed_if_left(commands), _broken_if_any_fails(commands, barrier):
            barrier.wait(workers.BARRIER_SECONDS)
            servers = {} if storage is None else {"storage server": storage.process}
            watch = _Watch(servers | (dict(self._tracking) if cell.tracking else {}), commands, storage)
            started = time.time()
            watch.until_ended(folder, cell.workers)
        return _found(cell, folder, started, watch, load)


class _Watch:
    """Measures processes from its creation to the end of the commands."""

    def __init__(
        self, servers: dict[str, psutil.Process], commands: Sequence[BaseProcess], storage: Server | None
    ) -> None:
        self._servers, self._commands, self._storage = servers, commands, storage
        self._own = {"command": [psutil.Process(each.pid) for each in commands], "uploader": []}
        for command in self._own["command"]:
            self._own["uploader"] += [child for child in command.children() if UPLOADER in child.cmdline()]
        self._before = {name: processor_seconds(each) for name, each in servers.items()}
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._busy = [_busy_seconds()]
        self._times = [time.monotonic()]
        self.connections = 0
        self._look()
        self._first = dict(self._last)
        self.processor: dict[str, float] = {}

    @property
    def busy(self) -> float:
        """Mean number of busy processors while workers ran trials."""
        return (self._busy[-1] - self._busy[0]) / (self._times[-1] - self._times[0])

    def until_ended(self, folder: Path, n_workers: int) -> None:
        """Measure until all commands have ended."""
        searching = True
        while any(command.is_alive() for command in self._commands):
            self._look()
            if searching:
                self._busy.append(_busy_seconds())
                self._times.append(time.monotonic())
                if self._storage is not None:
                    self.connections = max(self.connections, self._storage.n_connections())
                searching = len(list(folder.glob("worker-*.json"))) < n_workers
            time.sleep(_POLL_SECONDS)
        self.processor = {name: processor_seconds(each) - self._before[name] for name, each in self._servers.items()}
        for name, processes in self._own.items():
            self.processor[name] = sum(self._last[each.pid] - self._first[each.pid] for each in processes)

    def _look(self) -> None:
        for process in (*self._own["command"], *self._own["uploader"]):
            with suppress(psutil.Error):  # it has ended
                times = process.cpu_times()
                self._last[process.pid] = times.user + times.system


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _found(cell: Cell, folder: Path, started: float, watch: _Watch, load: float) -> Found:
    each = [json.loads(file.read_text()) for file in folder.glob("worker-*.json")]
    n_completed = sum(one["trials"] for one in each)
    if len(each) != cell.workers or n_completed != cell.trials:
        raise RunError(f"{cell}: {len(each)} workers completed {n_completed} of {cell.trials} trials.")
    ends = [json.loads(file.read_text())["ended"] for file in folder.glob("command-*.json")]
    parts = {name: sum(one.get(name, 0.0) for one in each) / n_completed for name in (*_PARTS, "sleep", "total")}
    parts["else"] = parts["total"] - parts["sleep"] - sum(parts[name] for name in _PARTS)
    processor = {"worker": sum(one["processor"] for one in each), **watch.processor}
    return Found(
        search=max(one["ended"] for one in each) - started,
        tracked=max(ends) - started if cell.tracking else float("nan"),
        n_completed=n_completed,
        parts=parts,
        processor={name: seconds / n_completed for name, seconds in processor.items()},
        busy=watch.busy,
        connections=watch.connections,
        load=load,
    )


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable during the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _run(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise RunError(f"A process of the benchmark ended with {process.exitcode}.")


@contextmanager
def _killed_if_left(commands: Sequence[BaseProcess]) -> Iterator[None]:
    """Kill commands, and what they started, that still run after an error."""
    try:
        yield
    finally:
        for command in commands:
            with suppress(psutil.Error):
                left = psutil.Process(command.pid)
                for process in (*left.children(recursive=True), left):
                    with suppress(psutil.Error):
                        process.kill()
            command.join()


@contextmanager
def _broken_if_any_fails(commands: Sequence[BaseProcess], barrier: Any) -> Iterator[None]:
    """End the waiting at the barrier as soon as a command fails."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_POLL_SECONDS):
            if any(command.exitcode for command in commands):
                barrier.abort()
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    except threading.BrokenBarrierError as error:
        raise RunError("A command of the benchmark failed before its first trial.") from error
    finally:
        over.set()
        thread.join()


def table(rows: Sequence[tuple[Cell, Found]]) -> str:
    """Return what was measured as Markdown."""
    head = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores."
    first = [
        "| storage | workers | s a trial | trials | efficiency | with tracking | wait | read | ask | end | else |",
        "| --- |" + " ---: |" * 10,
    ]
    names = list(dict.fromkeys(name for _, found in rows for name in found.processor))
    second = [
        f"| storage | workers | s a trial | {' | '.join(names)} | busy | load | connections |",
        "| --- |" + " ---: |" * (len(names) + 5),
    ]
    for cell, found in rows:
        slept = cell.seconds * found.n_completed / cell.workers
        name = f"{cell.storage}{'' if cell.tracking else ', no tracking'} | {cell.workers} | {cell.seconds:g}"
        tracked = f"{slept / found.tracked:.2f}" if cell.tracking else ""
        cells = [f"{1000 * found.parts[part]:.0f}" for part in (*_PARTS, "else")]
        first.append(f"| {name} | {found.n_completed} | {slept / found.search:.2f} | {tracked} | {' | '.join(cells)} |")
        used = [f"{1000 * found.processor[key]:.0f}" if key in found.processor else "" for key in names]
        more = [f"{found.busy:.1f}", f"{found.load:.1f}", str(found.connections or "")]
        second.append(f"| {name} | {' | '.join([*used, *more])} |")
    return "\n".join([head, "", *first, "", *second])


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """Return the cells that the options ask for.

    Raises:
        SettingsError: If an option has an unknown value.
    """
    numbers = [int(value) for value in options.workers.split(",")]
    storages = options.storages.split(",")
    if unknown := set(storages) - set(STORAGES):
        raise SettingsError(f"--storages must be among {', '.join(STORAGES)}, but got {', '.join(sorted(unknown))}.")
    found = []
    for tracking in [False, True] if options.tracking == "both" else [options.tracking == "on"]:
        for storage in storages:
            for seconds in (float(value) for value in options.seconds.split(",")):
                if not tracking and seconds >= max(SECONDS) and options.tracking == "both":
                    continue  # there is no more to learn from a minute without work
                per_worker = options.trials or (3 if seconds >= max(SECONDS) else 5)
                found += [Cell(storage, number, seconds, tracking, per_worker) for number in numbers]
    return found


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--workers", default=",".join(map(str, WORKERS)), help="comma between (2,8,32)")
    made.add_argument("--seconds", default="0.2,2,20", help="of a trial, comma between (0.2,2,20)")
    made.add_argument("--storages", default=",".join(STORAGES), help="comma between (postgresql,journal)")
    made.add_argument("--tracking", choices=("on", "off", "both"), help="(both; with --quick on)")
    made.add_argument("--trials", type=int, help="per worker (5, and 3 of 20 s)")
    made.add_argument("--data", default="phantom:cases=40,images=4", help="of the real trial")
    made.add_argument("--output", type=Path, help="Markdown file of the tables; none unless named")
    made.add_argument("--quick", action="store_true", help="two workers, 3 trials of 0.2 s each")
    return made


def main(arguments: Sequence[str] | None = None) -> list[tuple[Cell, Found]]:
    """Print the tables, and return the measurements."""
    options = parser().parse_args(arguments)
    if options.quick:
        options.workers, options.seconds, options.trials = "2", "0.2", 3
    options.tracking = options.tracking or ("on" if options.quick else "both")
    rows: list[tuple[Cell, Found]] = []
    handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers and commands are ended
    try:
        cells = cells_of(options)
        settings = Settings(
            data=options.data, backbones=("staintex-s",), image_size=96, quiet=True, only="trials", seed=0
        )
        with tempfile.TemporaryDirectory(prefix="many-workers-") as folder, ExitStack() as servers:
            storage = servers.enter_context(postgres()) if any(cell.storage == STORAGES[0] for cell in cells) else None
            tracking: dict[str, psutil.Process] = {}
            if any(cell.tracking for cell in cells):
                database = servers.enter_context(postgres())
                uri, mlflow = servers.enter_context(mlflow_server(database.url(), os.cpu_count() or 1))
                tracking = {"MLflow server": mlflow, "MLflow's database": database.process}
                servers.enter_context(_variable("MLFLOW_TRACKING_URI", uri))
            machine = Machine(Path(folder), storage, tracking, settings)
            for cell in cells:
                rows.append((cell, machine.measure(cell)))
                print(f"{datetime.now():%H:%M:%S} {rows[-1]}", file=sys.stderr, flush=True)
    except BhsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    finally:
        signal.signal(signal.SIGTERM, handler)
    found = table(rows)
    print(found)
    if options.output is not None:
        options.output.write_text(f"{found}\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    main()
