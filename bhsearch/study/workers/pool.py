"""The pool of workers: starts and stops workers, and replaces workers that die, hang or exceed their memory limit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from bhsearch.config import Settings
from bhsearch.data.arrays import Float32Array
from bhsearch.data.images.pixel_cache import Progress
from bhsearch.engines.base import Trial
from bhsearch.engines.registry import ENGINES
from bhsearch.errors import RunError
from bhsearch.study.events import ProgressReporter
from bhsearch.study.objective_factory import threads_of
from bhsearch.study.startup import needs_framework
from bhsearch.study.workers.gpus import WorkerGrowth, first_workers_per_gpu, gpu_variables, grows, visible_gpus
from bhsearch.study.workers.launchers.base import LAUNCHERS, WorkerCommand, WorkerHandle
from bhsearch.study.workers.launchers.jobs import ClusterLauncher
from bhsearch.study.workers.messages import (
    Connected,
    Finished,
    PoolMessage,
    Prepared,
    StartTrials,
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
from bhsearch.study.workers.worker import DONE, OUTGROWN, STOPPED, TIME
from bhsearch.text import plural

_LOOK_SECONDS = 0.5
_SETTLE_SECONDS = 10.0  # interval of searches for dead trials of other commands
_STOP_SECONDS = 8.0  # time for a worker to fail its trial and end; batch systems kill a job after 10 s or more
_MOST_EARLY_DEATHS = 2  # number of consecutive workers that died before their first trial at which the pool gives up


@dataclass(eq=False)
class PoolWorker:
    """A worker, and its state as known to the pool."""

    slot: int
    handle: WorkerHandle
    owner: dict[str, Any] | None = None  # process of the worker, from `this_process`; None until the worker connects
    since: float = float("inf")  # monotonic time of the last event: a trial started or ended, or the worker waits
    worked: bool = False  # whether the worker has started a trial
    verdict: str = ""  # reason of the end that the worker reported, such as `DONE`
    reason: str = ""  # reason for which the pool killed the worker

    def send(self, message: PoolMessage) -> None:
        """Send a message; errors are ignored, because the pool detects a dead worker when it reads the connection."""
        with suppress(OSError):
            self.handle.connection.send(message)

    def receive(self) -> WorkerMessage | None:
        """Return the next message of the worker, waiting if necessary; None if the worker has ended."""
        try:
            message: WorkerMessage = self.handle.connection.recv()
        except (EOFError, OSError):
            return None
        return message

    def start_trials(self) -> None:
        """Let the worker, which is prepared, run trials."""
        self.since = time.monotonic()
        self.send(StartTrials())

    def end(self) -> None:
        """Kill the worker if it is still running, wait for its end, and close its channel."""
        self.handle.kill()
        self.handle.wait()
        self.handle.close()


@dataclass(frozen=True, eq=False)
class WorkerEvents:
    """Functions that the pool calls on events of the workers.

    Attributes:
        ended: Called after a trial has ended. Arguments: number of the trial, and its out-of-fold P(malignant), shape
            (n_repeats, n_images), or None unless the trial is complete.
        died: Called after a worker died, to end its trial. Arguments: process of the worker as a dict of host, process
            id and start time, from `runtime.processes.this_process`, or None if the worker never connected; reason of
            the death; whether to retry the trial. Returns whether the worker was running a trial.
        settle: Called every 10 s (`_SETTLE_SECONDS`), and after the pool has stopped workers, to end the running trials
            of processes that died, including those of other commands; see `recover_dead_trials`.
        rescued: Called if the engine's storage is lost. Arguments: a complete trial, and its out-of-fold P(malignant),
            shape (n_repeats, n_images).
    """

    ended: Callable[[int, Float32Array | None], None]
    died: Callable[[dict[str, Any] | None, str, bool], bool]
    settle: Callable[[], object]
    rescued: Callable[[Trial, Float32Array], None]


class WorkerPool:
    """A pool of worker processes, as a context manager that kills the remaining workers on exit.

    Args:
        settings: Settings of the study.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._gpus = visible_gpus()
        self._growth = WorkerGrowth(len(self._gpus)) if grows(settings) else None
        self._early_deaths = 0
        self._verdicts: list[str] = []
        launcher = LAUNCHERS.get(settings.launcher)
        assert not isinstance(launcher, ClusterLauncher), "those place whole commands, see `study.cluster`"
        self._launcher = launcher
        self._workers = [self._start(slot) for slot in range(n_workers(settings))]

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.end()

    def prepare(self, task: WorkerTask, reporter: ProgressReporter) -> Mapping[str, npt.NDArray[np.uint8]]:
        """Let the first worker prepare the study and fill the cache, which the other workers then use.

        Args:
            task: Task to send to the worker.
            reporter: Receives the steps of the preparation.

        Returns:
            Example images by augmentation policy.

        Raises:
            InputError: If a setting or an input file is invalid.
            RunError: If the worker and its replacement die.
        """
        self._task, self._reporter = task, reporter
        while True:
            first = self._workers[0]
            first.send(task)
            examples = self._prepared_by(first)
            if examples is not None:
                return examples
            first.end()
            self._died_early(first)
            self._workers[0] = self._start(first.slot)

    def _prepared_by(self, first: PoolWorker) -> Mapping[str, npt.NDArray[np.uint8]] | None:
        """Report the steps of a worker until it is ready, and return its example images; None if the worker died."""
        steps: list[tuple[ExitStack, Progress]] = []  # nested steps, innermost last
        with ExitStack() as all_steps:
            while True:
                match first.receive():
                    case None:
                        return None
                    case StepStarted(name):
                        step = all_steps.enter_context(ExitStack())
                        steps.append((step, step.enter_context(self._reporter.step(name))))
                    case StepAdvanced(done, total):
                        steps[-1][1](done, total)
                    case StepEnded():
                        steps.pop()[0].close()
                    case Prepared(examples):
                        return examples
                    case other:
                        self._handle(first, other, None)

    def work(self, watch: WorkerEvents, seconds: float) -> str:
        """Run trials in all workers until the workers end.

        Args:
            watch: Callbacks for the events of the workers.
            seconds: Time limit after which no trial is started.

        Returns:
            Reason why the workers ended: `DONE`, `TIME` or `STOPPED`.

        Raises:
            InputError: If a worker fails with an error that would also occur in every other worker.
            RunError: If several workers in a row die before their first trial.
        """
        self._deadline = time.monotonic() + seconds
        settled = time.monotonic()
        try:
            self._workers[0].start_trials()
            for worker in self._workers[1:]:
                worker.send(self._task)
            while self._workers:
                self._wait_for_messages(watch)
                if time.monotonic() > settled + _SETTLE_SECONDS:
                    watch.settle()
                    settled = time.monotonic()
        finally:
            self._stop(watch)
        return next((word for word in (STOPPED, TIME) if word in self._verdicts), DONE)

    def _wait_for_messages(self, watch: WorkerEvents) -> None:
        """Handle the pending messages, replace workers that have ended, and kill workers that hang."""
        for worker, message in self._messages():
            if message is None:
                self._gone(worker, watch)
            else:
                self._handle(worker, message, watch)
        limit = self._settings.trial_timeout
        for worker in self._workers:
            if limit is not None and time.monotonic() > worker.since + limit:
                worker.reason, worker.since = f"it took longer than --trial-timeout, {limit:g} s", float("inf")
                worker.handle.kill()

    def _messages(self) -> Iterator[tuple[PoolWorker, WorkerMessage | None]]:
        """Yield worker and message of the pending messages, at most one per worker; None if the worker has ended.

        The method waits up to `_LOOK_SECONDS` for a message.
        """
        by_connection = {worker.handle.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), _LOOK_SECONDS):
            worker = by_connection[connection]  # type: ignore[index]
            yield worker, worker.receive()

    def _handle(self, worker: PoolWorker, message: WorkerMessage, watch: WorkerEvents | None) -> None:
        """Handle a message of a worker.

        Args:
            worker: Worker that sent the message.
            message: Message.
            watch: Callbacks for the ends of trials; None while the first worker prepares the study.

        Raises:
            InputError: If the message reports an error that would also occur in every other worker.
            RunError: If the message reports another error.
        """
        match message:
            case Connected(owner):
                worker.owner = owner
            case Prepared():
                worker.start_trials()
            case TrialStarted(number):
                worker.since, worker.worked, self._early_deaths = time.monotonic(), True, 0
                self._reporter.began(number)
            case TrialAdvanced(what, number):
                self._reporter.doing(what, number)
            case TrialEnded(number, probability):
                worker.since = time.monotonic()
                if watch is not None:
                    watch.ended(number, probability)
                    self._grow()
            case TrialRescued(trial, probability):
                if watch is not None:
                    watch.rescued(trial, probability)
            case Waiting():
                worker.since = time.monotonic()
            case UserMessage(sentence):
                self._reporter.say(sentence)
            case Finished(verdict):
                worker.verdict = verdict
            case WorkerFailed():
                raise message.error()
            case StepStarted() | StepAdvanced() | StepEnded():
                pass  # only the preparation by the first worker is shown
            case _:
                assert_never(message)

    def _gone(self, worker: PoolWorker, watch: WorkerEvents) -> None:
        """Recover the trial of a worker that has ended, and replace the worker unless it reported `DONE` or `TIME`."""
        worker.handle.wait(_LOOK_SECONDS)
        worker.end()
        self._workers.remove(worker)
        if worker.verdict in (DONE, TIME):
            self._verdicts.append(worker.verdict)
            return
        if not worker.verdict:
            sentence = worker.reason or f"its process died ({worker.handle.how_it_ended()})"
            had_trial = watch.died(worker.owner, sentence, not worker.reason)
            if not (worker.worked or had_trial):
                self._died_early(worker)
        if worker.verdict == OUTGROWN:
            self._reporter.say(
                f"A worker outgrew --max-worker-memory, {self._settings.max_worker_memory:g} MB: a new one."
            )
        self._add(worker.slot)

    def _add(self, slot: int) -> None:
        """Start a worker during the search."""
        fresh = self._start(slot)
        self._workers.append(fresh)
        fresh.send(
            replace(self._task, criteria=replace(self._task.criteria, seconds=self._deadline - time.monotonic()))
        )

    def _grow(self) -> None:
        """Add workers after a finished trial if `--workers-per-gpu auto` finds that they pay."""
        n_more = self._growth.finished(time.monotonic()) if self._growth is not None else 0
        for slot in range(n_more):
            self._add(slot)
        if n_more and self._growth is not None:
            self._reporter.say(f"{plural(self._growth.n_workers, 'worker')} now (--workers-per-gpu auto).")

    def _died_early(self, worker: PoolWorker) -> None:
        self._early_deaths += 1
        if self._early_deaths >= _MOST_EARLY_DEATHS:
            raise RunError(
                f"{self._early_deaths} workers in a row ended before they started a trial (the last one: "
                f"{worker.handle.how_it_ended()})."
            )

    def _stop(self, watch: WorkerEvents) -> None:
        """Ask all workers to fail their trials and end, and kill the remaining workers after `_STOP_SECONDS`."""
        if not self._workers:
            return
        self._growth = None
        for worker in self._workers:
            worker.send(Stop())
        deadline = time.monotonic() + _STOP_SECONDS
        while self._workers and time.monotonic() < deadline:
            for worker, message in self._messages():
                if message is None:
                    worker.end()
                    self._workers.remove(worker)
                elif not isinstance(message, WorkerFailed):  # ignore further failures while the first one is raised
                    self._handle(worker, message, watch)
        for worker in self._workers:
            worker.end()
        self._workers = []
        watch.settle()

    def _start(self, slot: int) -> PoolWorker:
        gpu = gpu_variables(slot, self._gpus, n_workers(self._settings), grows=self._growth is not None)
        threads, framework = threads_of(self._settings) or 0, needs_framework(self._settings)
        return PoolWorker(slot, self._launcher.start(WorkerCommand(slot, threads, framework, gpu)))


def n_workers(settings: Settings) -> int:
    """Return the number of worker processes; 0 if the command runs the trials itself.

    The number is `--workers` if given; otherwise `--workers-per-gpu` for each GPU, and at least 1, or 1 if the engine
    is not parallel. With `--workers-per-gpu auto`, it is the number at the start. With the launcher of a cluster, it is
    the number of workers that are placed on other machines.

    Raises:
        SettingsError: If `--workers-per-gpu` is given without a GPU.
    """
    if isinstance(LAUNCHERS.get(settings.launcher), ClusterLauncher):
        return settings.workers or 1  # the GPUs of this machine do not matter
    per_gpu = first_workers_per_gpu(settings)
    if os.name == "nt":  # on Windows, a process cannot inherit a socket
        return 0
    if settings.workers is not None:
        return settings.workers
    return max(1, per_gpu * len(visible_gpus())) if ENGINES.get(settings.engine).capabilities.parallel else 1
