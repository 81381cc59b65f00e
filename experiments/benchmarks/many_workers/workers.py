"""Commands and workers whose trials only sleep.

A command is `bhsearch worker` as it is, with its own outbox, uploader and pool; only the launcher of its workers is
replaced by one that forks them, so that they need not import anything. A worker runs the real loop with the real
engine and outbox. Its objective sleeps, and returns the result of one real trial.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from bhsearch.config import Settings
from bhsearch.engines.base import Engine
from bhsearch.objectives.base import ReportCallback, TrialResult
from bhsearch.objectives.space import Params, starting_point
from bhsearch.runtime.processes import how_it_ended, this_process
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.objective_factory import Objective, make_objective
from bhsearch.study.resume.open import join_engine
from bhsearch.study.runner import optimize
from bhsearch.study.workers import worker as worker_module
from bhsearch.study.workers.launchers.base import LAUNCHERS, WorkerCommand
from bhsearch.study.workers.messages import Connected, Finished, Prepared
from bhsearch.study.workers.process import PoolChannel
from bhsearch.study.workers.worker import Worker
from bhsearch.tracking.upload.outbox import VARIABLE, Outbox

FORK = multiprocessing.get_context("fork")
BARRIER_SECONDS = 300.0


@dataclass(frozen=True)
class Simulation:
    """What commands and workers of a cell share.

    Attributes:
        settings: Settings of the study.
        seconds: Duration of a trial.
        result: Result of a real trial, which all trials return.
        barrier: Barrier at which all workers wait before their first trial.
        folder: Folder for the measurements, one file per worker.
    """

    settings: Settings
    seconds: float
    result: TrialResult
    barrier: Any
    folder: Path


def real_result(settings: Settings) -> TrialResult:
    """Run one real trial at the starting point of the first backbone, and return its result."""
    context = StudyContext.build(settings, ProgressReporter())
    objective = make_objective(context, {}, ProgressReporter())
    backbone = next(iter(context.backbones))
    return objective(starting_point(context.space(tuple(context.backbones)), backbone), lambda _: None)


def run_command(simulation: Simulation) -> None:
    """Run `bhsearch worker` with sleeping workers, until MLflow has all trials of this command."""
    global _simulation
    _simulation = simulation
    os.environ[VARIABLE] = str(simulation.folder / "outbox")
    LAUNCHERS.built_in["local"] = f"{__name__}:LAUNCHER"
    optimize(simulation.settings, ProgressReporter())
    (simulation.folder / f"command-{os.getpid()}.json").write_text(json.dumps({"ended": time.time()}))


_simulation: Simulation


class _ForkedWorker:
    """A worker that is a fork of its command; see `WorkerHandle`."""

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self._process, self._connection = process, connection

    @property
    def connection(self) -> Connection:
        """The pool's end of the channel."""
        return self._connection

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the process has ended."""
        self._process.join(seconds)

    def close(self) -> None:
        """Close the pool's end of the channel."""
        self._connection.close()

    def how_it_ended(self) -> str:
        """Return how the process ended."""
        code = self._process.exitcode
        return "unknown" if code is None else how_it_ended(code)


class _ForkingLauncher:
    def start(self, _command: WorkerCommand) -> _ForkedWorker:
        """Fork a worker, and return its handle."""
        here, there = socket.socketpair()
        with there:
            process = FORK.Process(target=_work, args=(there.fileno(), here), daemon=False)
            process.start()
        return _ForkedWorker(process, Connection(here.detach()))


LAUNCHER = _ForkingLauncher()


class Stopwatch:
    """Seconds by part of the loop, until the last completed trial.

    Attributes:
        found: Seconds by part when the last trial was completed, with `total`, those since the start.
        n_completed: Number of completed trials.
        ended: Time of the last completion.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._since = 0.0
        self.found: dict[str, float] = {}
        self.n_completed, self.ended = 0, 0.0

    def start(self) -> None:
        """Forget what was measured, and measure from now on."""
        self._seconds, self._since = {}, time.perf_counter()

    def completed(self) -> None:
        """Note that a trial was completed."""
        self.n_completed += 1
        self.ended = time.time()
        self.found = {**self._seconds, "total": time.perf_counter() - self._since}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to a part of the loop."""
        since = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - since


class SleepingObjective:
    """An objective that sleeps, and returns the result of a real trial with another score.

    Args:
        seconds: Time to sleep.
        result: Result of a real trial.
    """

    def __init__(self, seconds: float, result: TrialResult, watch: Stopwatch) -> None:
        self._seconds, self._result, self._watch = seconds, result, watch

    def __call__(self, params: Params, _watch: ReportCallback) -> TrialResult:
        """Sleep, and return the result."""
        with self._watch.part("sleep"):
            time.sleep(self._seconds)
        score = self._result.score - 0.001 * abs(params["log10_penalty"])
        return replace(self._result, score=score, seconds=self._seconds)

    def examples(self) -> Mapping[str, npt.NDArray[np.uint8]]:
        """Return no examples: the trials use no images."""
        return {}


class TimedEngine:
    """An engine whose calls are timed; everything else is passed on."""

    def __init__(self, engine: Engine, watch: Stopwatch) -> None:
        self._engine, self._watch = engine, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def trials(self) -> Any:
        """See `Engine.trials`."""
        with self._watch.part("read"):
            return self._engine.trials()

    def ask(self, *arguments: Any) -> Any:
        """See `Engine.ask`."""
        with self._watch.part("ask"):
            return self._engine.ask(*arguments)

    def complete(self, *arguments: Any) -> None:
        """See `Engine.complete`."""
        with self._watch.part("end"):
            self._engine.complete(*arguments)
        self._watch.completed()


def _timed_lock(lock: Callable[..., Any], watch: Stopwatch) -> Callable[..., Any]:
    @contextmanager
    def timed(*arguments: Any) -> Iterator[None]:
        held = lock(*arguments)
        with watch.part("lock"):
            held.__enter__()
        try:
            yield
        finally:
            held.__exit__(None, None, None)

    return timed


def _work(descriptor: int, others: socket.socket) -> None:
    """Be a worker: `bhsearch.study.workers.process` with a sleeping objective, and a barrier before the first trial."""
    others.close()
    pool = PoolChannel(Connection(descriptor))
    pool.send(Connected(this_process()))
    task = pool.task()
    if task is None:
        return
    watch = Stopwatch()
    engine = TimedEngine(join_engine(task.prepared, task.metadata), watch)
    engine.trials()
    objective = SleepingObjective(_simulation.seconds, _simulation.result, watch)
    pool.send(Prepared(objective.examples()))
    pool.go.wait()
    worker_module.study_lock = _timed_lock(worker_module.study_lock, watch)  # type: ignore[assignment]
    loop = Worker(
        task.prepared,
        task.metadata,
        cast(Engine, engine),
        cast(Objective, objective),
        Outbox(task.outbox, make=False) if task.outbox is not None else None,
        task.criteria,
        pool,
    )
    _simulation.barrier.wait(BARRIER_SECONDS)
    used = _processor_seconds()
    watch.start()
    verdict = loop.run()
    processor = _processor_seconds() - used
    found = {"trials": watch.n_completed, "ended": watch.ended, "processor": processor, **watch.found}
    (_simulation.folder / f"worker-{os.getpid()}.json").write_text(json.dumps(found))
    pool.send(Finished(verdict))
    with suppress(OSError):  # the thread that listens to the pool would else kill this process with an alarm
        signal.alarm(0)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def save_result(settings: Settings, file: Path) -> None:
    """Run a real trial in this process, and write its result to a file."""
    file.write_bytes(pickle.dumps(real_result(settings)))


def load_result(file: Path) -> TrialResult:
    """Return the result in a file of `save_result`."""
    found: TrialResult = pickle.loads(file.read_bytes())
    return found
