"""A worker as a process: `python -m bhsearch.study.workers.process FILE_DESCRIPTOR`, which its supervisor starts.

It imports its framework while the supervisor still reads the data, is given the study through a socket, and says
through it what it does. When the supervisor says stop, or is gone, it fails the trial in hand and ends, by force if it
must.
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

from bhsearch.data.images.pixel_cache import Progress
from bhsearch.engines.base import Trial
from bhsearch.errors import BhsearchError
from bhsearch.models.training.linear_probe import Array
from bhsearch.runtime.interrupts import Interrupts
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.metadata import StudyMetadata
from bhsearch.study.objective_factory import make_objective
from bhsearch.study.open import join_engine
from bhsearch.study.startup import start_framework
from bhsearch.study.workers.worker import STOPPED, StoppingCriteria, TrialCallbacks, Worker
from bhsearch.tracking.upload.outbox import Outbox

GO, STOP = "go", "stop"  # what a supervisor says after the task
_ALONE_SECONDS = 3  # what a worker has to end in when its supervisor is gone
_STEP_SECONDS = 0.1  # between two messages of a piece of work


@dataclass(frozen=True, eq=False)
class WorkerTask:
    """What a worker is given.

    Attributes:
        prepared: Of the study.
        metadata: What the study keeps about itself.
        outbox: Folder of the supervisor's outbox; None without tracking.
        orders: When to end.
    """

    prepared: StudyContext
    metadata: StudyMetadata
    outbox: Path | None
    orders: StoppingCriteria


class SupervisorChannel(TrialCallbacks, ProgressReporter):
    """Tells the supervisor, and hears it say stop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._interrupts = Interrupts()
        self.go = threading.Event()
        self._given = threading.Event()
        self._task = b""
        self._waited = self._told = 0.0
        self._number: int | None = None  # of the trial that began last
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signal)
        threading.Thread(target=self._listen, daemon=True).start()

    def _signal(self, number: int, _frame: Any) -> None:
        """Ctrl-C goes to the whole group: the supervisor hears it, too, and says what is to be done."""
        if number == signal.SIGTERM or self._interrupts.asked:
            self._interrupts.ask()

    @property
    def stopping(self) -> bool:
        """Whether the supervisor said stop, or is gone."""
        return self._interrupts.asked

    def task(self) -> WorkerTask | None:
        """Wait for what is to be done; None if the supervisor is gone."""
        self._given.wait()
        return pickle.loads(self._task) if self._task else None  # noqa: S301  # from the process that started this one

    def _listen(self) -> None:
        """Hear the supervisor, in a thread, from the first moment: it may die while the framework is imported."""
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
        signal.alarm(_ALONE_SECONDS)  # by the kernel: an import in the other thread may hold the interpreter

    def _stop(self) -> None:
        self._interrupts.asked = True
        _thread.interrupt_main(signal.SIGINT)

    def interruptible(self) -> AbstractContextManager[None]:
        """Around what may be interrupted."""
        return self._interrupts.allowed()

    def send(self, *message: Any) -> None:
        """Say something to the supervisor, which may be gone; then the listening thread ends this process."""
        with contextlib.suppress(OSError):
            self._connection.send(message)

    def started(self, trial: Trial) -> None:
        """A trial begins."""
        self._number = trial.number
        self.send("started", trial.number)

    def doing(self, what: str, number: int | None = None) -> None:
        """What the trial is doing; not said more often than a person can read it."""
        if time.monotonic() > self._told + _STEP_SECONDS:
            self._told = time.monotonic()
            self.send("doing", what, self._number if number is None else number)

    def ended(self, number: int, probability: Array | None) -> None:
        """A trial has ended."""
        self.send("ended", number, probability)

    def rescued(self, trial: Trial, probability: Array) -> None:
        """A trial is complete, but the engine could not be told."""
        self.send("rescued", trial, probability)

    def waiting(self) -> None:
        """Others run the last trials."""
        if time.monotonic() > self._waited + 1.0:
            self._waited = time.monotonic()
            self.send("waiting")

    def exhausted(self, sentence: str) -> None:
        """The engine has no more points to propose."""
        self.say(sentence)

    def say(self, sentence: str) -> None:
        """Something worth a line."""
        self.send("say", sentence)

    @contextmanager
    def step(self, what: str) -> Iterator[Progress]:
        """A piece of work with a length."""
        last = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal last
            if done == total or time.monotonic() > last + _STEP_SECONDS:
                last = time.monotonic()
                self.send("progress", done, total)

        self.send("step", what)
        yield progress
        self.send("step_ended")


def main(descriptor: int, threads: int) -> None:
    """Work until the study has what it shall have.

    Args:
        descriptor: Of the socket to the supervisor.
        threads: Processor threads that one operation may use; 0 for the framework's own choice.
    """
    line = SupervisorChannel(Connection(descriptor))
    start_framework(line, threads or None)
    task = line.task()
    if task is None:
        return
    try:
        verdict = _work(task, line)
    except KeyboardInterrupt:
        verdict = STOPPED
    except BhsearchError as error:
        line.send("failed", type(error).__name__, str(error))
        return
    except Exception as error:  # a worker that cannot go on ends the study, with the reason
        line.send("failed", "RunError", f"A worker failed: {type(error).__name__}: {error}")
        return
    line.send("done", verdict)


def _work(task: WorkerTask, line: SupervisorChannel) -> str:
    prepared, metadata = task.prepared, task.metadata
    engine = join_engine(prepared, metadata)
    with line.interruptible():
        objective = make_objective(prepared, metadata["started_from"], line)
        line.send("ready", objective.examples())
    line.go.wait()
    outbox = Outbox(task.outbox, make=False) if task.outbox is not None else None
    return Worker(prepared, metadata, engine, objective, outbox, task.orders, line).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
