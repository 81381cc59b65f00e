"""A worker as a process: `python -m bhsearch.study.workers.process CHANNEL THREADS`, which a launcher starts.

It imports its framework while the pool reads the data, receives the study through its channel, and reports through it.
When the pool sends `STOP` or has ended, the worker fails its trial and ends, by force if necessary.
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
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bhsearch.data.arrays import Float32Array
from bhsearch.data.images.pixel_cache import Progress
from bhsearch.engines.base import Trial
from bhsearch.errors import BhsearchError
from bhsearch.runtime.interrupts import Interrupts
from bhsearch.runtime.processes import this_process
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.objective_factory import make_objective
from bhsearch.study.resume.metadata import StudyMetadata
from bhsearch.study.resume.open import join_engine
from bhsearch.study.startup import start_framework
from bhsearch.study.workers.launchers.base import open_channel
from bhsearch.study.workers.worker import STOPPED, StoppingCriteria, TrialCallbacks, Worker
from bhsearch.tracking.upload.outbox import Outbox

GO, STOP = "go", "stop"  # messages of the pool after the task
_ALONE_SECONDS = 3  # for a worker to end after its pool has ended
_STEP_SECONDS = 0.1  # between two progress messages


@dataclass(frozen=True, eq=False)
class WorkerTask:
    """The study that a worker runs trials of.

    Attributes:
        prepared: Context of the study.
        metadata: Metadata of the study.
        outbox: Folder of the command's outbox; None without tracking.
        criteria: When to end.
    """

    prepared: StudyContext
    metadata: StudyMetadata
    outbox: Path | None
    criteria: StoppingCriteria


class PoolChannel(TrialCallbacks, ProgressReporter):
    """A worker's end of the channel: sends events to the pool, and receives `STOP`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._interrupts = Interrupts()
        self.go = threading.Event()
        self._given = threading.Event()
        self._task = b""
        self._waited = self._told = 0.0
        self._number: int | None = None  # number of the trial that started last
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signal)
        threading.Thread(target=self._listen, daemon=True).start()

    def _signal(self, number: int, _frame: Any) -> None:
        """Leave the first Ctrl-C to the pool, which receives it as well: it goes to the whole process group."""
        if number == signal.SIGTERM or self._interrupts.asked:
            self._interrupts.ask()

    @property
    def stopping(self) -> bool:
        """Whether the pool has sent `STOP` or has ended."""
        return self._interrupts.asked

    def task(self) -> WorkerTask | None:
        """Wait for the task. Returns None if the pool has ended."""
        self._given.wait()
        return pickle.loads(self._task) if self._task else None  # noqa: S301  # from the process that started this one

    def _listen(self) -> None:
        """Receive messages in a thread, from the start: the pool may die while the framework is imported."""
        with contextlib.suppress(EOFError, OSError):
            self._task = self._connection.recv_bytes()
            self._given.set()
            while True:
                word = self._connection.recv()
                if word == STOP:
                    self._stop()
                self.go.set()
        self._stop()
        self._given.set()
        self.go.set()
        signal.alarm(_ALONE_SECONDS)  # sent by the kernel: an import in the other thread may hold the interpreter

    def _stop(self) -> None:
        self._interrupts.asked = True
        _thread.interrupt_main(signal.SIGINT)

    def interruptible(self) -> AbstractContextManager[None]:
        """Return a context manager for code that may be interrupted."""
        return self._interrupts.allowed()

    def send(self, *message: Any) -> None:
        """Send a message; if the pool has ended, the listening thread ends this process."""
        with contextlib.suppress(OSError):
            self._connection.send(message)

    def started(self, trial: Trial) -> None:
        """Report that a trial has started."""
        self._number = trial.number
        self.send("started", trial.number)

    def doing(self, what: str, number: int | None = None) -> None:
        """Report what the trial is doing, at most every `_STEP_SECONDS`."""
        if time.monotonic() > self._told + _STEP_SECONDS:
            self._told = time.monotonic()
            self.send("doing", what, self._number if number is None else number)

    def ended(self, number: int, probability: Float32Array | None) -> None:
        """Report that a trial has ended."""
        self.send("ended", number, probability)

    def rescued(self, trial: Trial, probability: Float32Array) -> None:
        """Report a complete trial that the engine could not record."""
        self.send("rescued", trial, probability)

    def waiting(self) -> None:
        """Report that other workers run the last trials."""
        if time.monotonic() > self._waited + 1.0:
            self._waited = time.monotonic()
            self.send("waiting")

    def exhausted(self, sentence: str) -> None:
        """Report that the sampler has no point left."""
        self.say(sentence)

    def say(self, sentence: str) -> None:
        """Report a sentence for people."""
        self.send("say", sentence)

    @contextmanager
    def step(self, what: str) -> Iterator[Progress]:
        """Report a step and its progress."""
        last = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal last
            if done == total or time.monotonic() > last + _STEP_SECONDS:
                last = time.monotonic()
                self.send("progress", done, total)

        self.send("step", what)
        yield progress
        self.send("step_ended")


def main(channel: str, threads: int) -> None:
    """Run trials of the study that the pool sends.

    Args:
        channel: Channel to the pool, as `open_channel` takes it.
        threads: Processor threads that one operation may use; 0 for the framework's own choice.
    """
    pool = PoolChannel(open_channel(channel))
    pool.send("hello", this_process())
    start_framework(pool, threads or None)
    task = pool.task()
    if task is None:
        return
    try:
        verdict = _work(task, pool)
    except KeyboardInterrupt:
        verdict = STOPPED
    except BhsearchError as error:
        pool.send("failed", type(error).__name__, str(error))
        return
    except Exception as error:  # a worker that cannot go on ends the study, with the reason
        pool.send("failed", "RunError", f"A worker failed: {type(error).__name__}: {error}")
        return
    pool.send("done", verdict)


def _work(task: WorkerTask, pool: PoolChannel) -> str:
    prepared, metadata = task.prepared, task.metadata
    engine = join_engine(prepared, metadata)
    with pool.interruptible():
        objective = make_objective(prepared, metadata["started_from"], pool)
        pool.send("ready", objective.examples())
    pool.go.wait()
    outbox = Outbox(task.outbox, make=False) if task.outbox is not None else None
    return Worker(prepared, metadata, engine, objective, outbox, task.criteria, pool).run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
