"""The worker process, started by a launcher: `python -m bhsearch.study.workers.process CHANNEL THREADS FRAMEWORK`.

If the study certainly needs a framework, the worker imports it while the pool reads the data. The worker then receives
the study through the channel, runs trials, and sends their events through the channel. When the pool sends `Stop` or
dies, the worker fails its running trial and exits. If the worker does not exit in time, the pool kills it, or a timer
if the pool is dead.
"""

from __future__ import annotations

import _thread
import contextlib
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from typing import Any

from bhsearch.data.arrays import Float32Array
from bhsearch.data.images.pixel_cache import Progress
from bhsearch.engines.base import Trial
from bhsearch.errors import BhsearchError, RunError
from bhsearch.models import backend
from bhsearch.runtime.interrupts import Interrupts
from bhsearch.runtime.processes import this_process
from bhsearch.study.events import ProgressReporter
from bhsearch.study.feature_costs import stored_costs
from bhsearch.study.objective_factory import make_objective
from bhsearch.study.resume.open import join_engine
from bhsearch.study.startup import start_framework
from bhsearch.study.workers.launchers.base import open_channel
from bhsearch.study.workers.messages import (
    Connected,
    Finished,
    PoolMessage,
    Prepared,
    StepAdvanced,
    StepEnded,
    StepStarted,
    Stop,
    TrialAdvanced,
    TrialEnded,
    TrialRescued,
    TrialStarted,
    UserMessage,
    Waiting,
    WorkerFailed,
    WorkerMessage,
    WorkerTask,
)
from bhsearch.study.workers.worker import STOPPED, TrialCallbacks, Worker
from bhsearch.tracking.upload.outbox import Outbox

_ALONE_SECONDS = 3  # time for a worker to exit after its pool has died
_STEP_SECONDS = 0.1  # minimum interval between two progress messages


class PoolChannel(TrialCallbacks, ProgressReporter):
    """The worker's end of the channel: receives the task, and sends the events of trials to the pool."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._interrupts = Interrupts()
        self.go = threading.Event()
        self._given = threading.Event()
        self._task = b""
        self._waited = self._told = 0.0
        self._number: int | None = None  # number of the most recently started trial
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signal)
        threading.Thread(target=self._listen, daemon=True).start()

    def _signal(self, number: int, _frame: Any) -> None:
        """Handle a signal: the first Ctrl-C is ignored, because it also reaches the pool, which then sends `Stop`."""
        if number == signal.SIGTERM or self._interrupts.asked:
            self._interrupts.ask()

    @property
    def stopping(self) -> bool:
        """Whether the worker must stop, because the pool sent `Stop` or died, or because of a signal."""
        return self._interrupts.asked

    def task(self) -> WorkerTask | None:
        """Wait for the task, and return it; None if the pool died."""
        self._given.wait()
        return pickle.loads(self._task) if self._task else None  # noqa: S301  # from the process that started this one

    def _listen(self) -> None:
        """Receive messages until the pool dies.

        The method runs in its own thread, so that a death of the pool is also noticed while the framework is imported.
        """
        with contextlib.suppress(EOFError, OSError):
            self._task = self._connection.recv_bytes()
            self._given.set()
            while True:
                message: PoolMessage = self._connection.recv()
                if isinstance(message, Stop):
                    self._stop()
                self.go.set()
        self._stop()
        self._given.set()
        self.go.set()
        signal.alarm(_ALONE_SECONDS)  # the kernel kills the process even if an import in the main thread holds the GIL

    def _stop(self) -> None:
        self._interrupts.asked = True
        _thread.interrupt_main(signal.SIGINT)

    def interruptible(self) -> AbstractContextManager[None]:
        """Return a context manager in which `Stop` interrupts the code immediately."""
        return self._interrupts.allowed()

    def send(self, message: WorkerMessage) -> None:
        """Send a message; errors are ignored, because the listening thread ends this process if the pool died."""
        with contextlib.suppress(OSError):
            self._connection.send(message)

    def started(self, trial: Trial) -> None:
        """Report that a trial has started."""
        self._number = trial.number
        self.send(TrialStarted(trial.number))

    def doing(self, what: str, number: int | None = None) -> None:
        """Report a progress message of a trial; messages within `_STEP_SECONDS` of the last one are dropped."""
        if time.monotonic() > self._told + _STEP_SECONDS:
            self._told = time.monotonic()
            self.send(TrialAdvanced(what, self._number if number is None else number))

    def ended(self, number: int, probability: Float32Array | None) -> None:
        """Report that a trial has ended, with its out-of-fold predictions if complete."""
        self.send(TrialEnded(number, probability))

    def rescued(self, trial: Trial, probability: Float32Array) -> None:
        """Report a complete trial that the engine could not record."""
        self.send(TrialRescued(trial, probability))

    def waiting(self) -> None:
        """Report at most once per second that no trial can be started, because other workers run the last trials."""
        if time.monotonic() > self._waited + 1.0:
            self._waited = time.monotonic()
            self.send(Waiting())

    def exhausted(self, sentence: str) -> None:
        """Report that the sampler has no more points to propose."""
        self.say(sentence)

    def say(self, sentence: str) -> None:
        """Report a message for the user."""
        self.send(UserMessage(sentence))

    @contextmanager
    def step(self, what: str) -> Iterator[Progress]:
        """Report the start, the progress and the end of a step."""
        last = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal last
            if done == total or time.monotonic() > last + _STEP_SECONDS:
                last = time.monotonic()
                self.send(StepAdvanced(done, total))

        self.send(StepStarted(what))
        yield progress
        self.send(StepEnded())


def main(channel: str, threads: int, framework: bool) -> None:
    """Run trials of the study that the pool sends.

    Args:
        channel: Name of the channel to the pool; see `open_channel`.
        threads: Number of CPU threads that one operation may use; 0 for the framework's default.
        framework: Whether to import the framework at once, or when it is needed.
    """
    pool = PoolChannel(open_channel(channel))
    pool.send(Connected(this_process()))
    backend.import_when_needed(threads or None, minimal=True)
    if framework:
        start_framework(pool)
    task = pool.task()
    if task is None:
        return
    try:
        verdict = _work(task, pool)
    except KeyboardInterrupt:
        verdict = STOPPED
    except BhsearchError as error:
        pool.send(WorkerFailed(type(error).__name__, str(error)))
        return
    except Exception as error:  # an unexpected error outside of a trial ends the search with a message
        pool.send(WorkerFailed(RunError.__name__, f"A worker failed: {type(error).__name__}: {error}"))
        return
    pool.send(Finished(verdict))


def _work(task: WorkerTask, pool: PoolChannel) -> str:
    prepared, metadata = task.prepared, task.metadata
    engine = join_engine(prepared, metadata)
    with pool.interruptible():
        objective = make_objective(prepared, metadata["started_from"], pool)
        stored_costs(prepared, metadata, engine, objective, pool)
        pool.send(Prepared(objective.examples()))
    pool.go.wait()
    outbox = Outbox(task.outbox, make=False) if task.outbox is not None else None
    return Worker(prepared, metadata, engine, objective, outbox, task.criteria, pool).run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), bool(int(sys.argv[3])))
