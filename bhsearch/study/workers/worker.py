"""Runs the trials of a study, one after another: in the search's own process, or in a worker's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from bhsearch.engines.base import INTERRUPTED, Engine, SearchExhausted, Trial, TrialAlreadyEnded
from bhsearch.errors import BhsearchError, InputError, LostStorageError
from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, interval
from bhsearch.evaluation.predictions import IntArray
from bhsearch.models.training.linear_probe import Array
from bhsearch.objectives.base import IntermediateValue, Pruned, TrialResult
from bhsearch.objectives.space import Params
from bhsearch.runtime.processes import is_alive, memory_mb, this_process
from bhsearch.states import COMPLETE, FAILED, RUNNING
from bhsearch.study.context import StudyContext
from bhsearch.study.metadata import StudyMetadata
from bhsearch.study.objective_factory import Objective, resolved
from bhsearch.study.open import study_lock
from bhsearch.study.payloads import complete_record, failed_record, now_ms, pruned_record
from bhsearch.study.recovery import next_retry, via_outbox
from bhsearch.study.result import N_DRAWS
from bhsearch.study.stopping import trials_since_improvement
from bhsearch.study.warm_start import next_warm
from bhsearch.tracking.upload.outbox import Outbox

# How a worker came to its end.
DONE, TIME, OUTGROWN, STOPPED = "done", "time", "outgrown", "stopped"
_WAIT_SECONDS = 0.2  # for a trial of another worker, the last one that is needed


@dataclass(frozen=True)
class StoppingCriteria:
    """When to end.

    Attributes:
        trials: Finished trials that the study shall have.
        max_failures: Failed trials in a row, over all workers.
        n_before: Trials of earlier sittings, whose failures do not count.
        seconds: After which no trial is started.
        max_memory_mb: Of the worker; once it holds more, it starts no trial.
        stagnation: Finished trials in a row without a better one that end the study; None for no such end.
        points: What the study begins with.
    """

    trials: int
    max_failures: int
    n_before: int
    seconds: float = float("inf")
    max_memory_mb: float = float("inf")
    stagnation: int | None = None
    points: tuple[Params, ...] = ()


class TrialCallbacks:
    """Hears of a worker's trials."""

    @property
    def stopping(self) -> bool:
        """Whether the worker is to start no trial."""
        return False

    def started(self, trial: Trial) -> None:
        """A trial begins."""

    def ended(self, number: int, probability: Array | None) -> None:
        """A trial has ended; with its out-of-fold predictions, if it is complete."""

    def rescued(self, trial: Trial, probability: Array) -> None:
        """A trial is complete, but the engine could not be told, since its storage is lost."""

    def waiting(self) -> None:
        """No trial can be started now: others run the last ones that are needed."""

    def exhausted(self, sentence: str) -> None:
        """The engine has no more points to propose."""

    def interruptible(self) -> AbstractContextManager[None]:
        """Around what may be interrupted."""
        return nullcontext()


class Worker:
    """Runs trials until there are enough.

    Args:
        prepared: Of the study.
        metadata: What the study keeps about itself.
        engine: Of the study.
        objective: Scores points.
        outbox: For finished trials; None without tracking.
        orders: When to end.
        ear: Hears of the trials.
    """

    def __init__(
        self,
        prepared: StudyContext,
        metadata: StudyMetadata,
        engine: Engine,
        objective: Objective,
        outbox: Outbox | None,
        orders: StoppingCriteria,
        ear: TrialCallbacks,
    ) -> None:
        self._prepared, self._engine, self._objective, self._outbox = prepared, engine, objective, outbox
        self._orders, self._ear = orders, ear
        self._names = [row.name for row in prepared.space(metadata["backbones"])]
        self._deadline = time.monotonic() + orders.seconds
        self._worked = False
        self._images = prepared.images
        self._draws: IntArray | None = None

    def run(self) -> str:
        """Run trials. Returns `DONE`, `TIME`, `OUTGROWN` or `STOPPED`.

        Raises:
            KeyboardInterrupt: If it was interrupted; the trial in hand has failed then.
            InputError: If the next trial would meet the same: a full disk, a weight file that is gone.
        """
        while True:
            if self._ear.stopping:
                return STOPPED
            if self._worked and memory_mb() > self._orders.max_memory_mb:  # else it would never come to a trial
                return OUTGROWN
            with study_lock(self._prepared):
                trials = self._engine.trials()
                self._forget_own(trials)
                missing = self._orders.trials - sum(trial.counts for trial in trials)
                if missing <= 0 or failed_too_often(trials, self._orders) or stagnated(trials, self._orders.stagnation):
                    return DONE
                if time.monotonic() > self._deadline:
                    return TIME
                spare = missing - sum(trial.state == RUNNING and is_alive(trial.owner) for trial in trials)
                try:
                    trial = self._ask(trials) if spare > 0 else None
                except SearchExhausted as end:
                    self._ear.exhausted(str(end))
                    return DONE
            if trial is None:
                self._ear.waiting()
                time.sleep(_WAIT_SECONDS)
            else:
                self._one_trial(trial)
                self._worked = True

    def _forget_own(self, trials: Sequence[Trial]) -> None:
        """End what this process seems to run and does not: the storage went away while it was being started."""
        me = this_process()
        for trial in trials:
            if trial.state == RUNNING and trial.owner == me:
                self._fail(trial, INTERRUPTED)

    def _ask(self, trials: Sequence[Trial]) -> Trial:
        """Start a trial: first what a process died in, then what the study begins with."""
        notes: dict[str, Any] = {"started_ms": now_ms()}
        if self._outbox is not None:
            notes["outbox"] = str(self._outbox.folder.resolve())  # where other commands can see whether it is logged
        again = next_retry(trials, self._names)
        if again is None:
            place = next_warm(self._orders.points, trials)
            if place is not None:
                return self._engine.ask(self._orders.points[place], notes | {"warm": place})
            return self._engine.ask(None, notes)
        attempt = again.notes.get("attempt", 0) + 1
        return self._engine.ask(again.params, notes | {"retry_of": again.number, "attempt": attempt})

    def _one_trial(self, trial: Trial) -> None:
        def watch(report: IntermediateValue) -> None:
            if self._engine.report(trial.number, report):
                raise Pruned

        self._ear.started(trial)
        try:
            with self._beating(trial.number), self._ear.interruptible():
                outcome = self._objective(trial.params, watch)
        except KeyboardInterrupt:
            self._fail(trial, INTERRUPTED)
            raise
        except Pruned as pruned:
            self._prune(trial, pruned)
        except InputError as error:  # the next trial would meet the same: a full disk, a weight file that is gone
            self._fail(trial, str(error))
            raise
        except Exception as error:  # a trial may fail in any way; the study goes on, and the reason is kept
            self._fail(trial, str(error) if isinstance(error, BhsearchError) else f"{type(error).__name__}: {error}")
        else:
            self._complete(trial, outcome)

    def _complete(self, trial: Trial, outcome: TrialResult) -> None:
        """Into the outbox first, then to the engine: whatever dies in between, the trial is not lost."""
        ends = self._interval(outcome)
        settings = self._prepared.settings
        now = resolved(self._prepared.regime, settings.feature_backend, settings.precision)
        record, arrays = complete_record(trial, outcome, ends, now)
        try:
            with self._told(trial, outcome.probability), via_outbox(self._outbox, trial.number, record, arrays):
                self._engine.complete(trial.number, outcome.score, outcome.seconds, ends)
        except LostStorageError:
            notes = {**trial.notes, "seconds": outcome.seconds}
            self._ear.rescued(replace(trial, state=COMPLETE, value=outcome.score, notes=notes), outcome.probability)
            raise

    def _interval(self, outcome: TrialResult) -> tuple[float, float]:
        """Of the score, over cases: as the result and the report have it."""
        if self._draws is None:
            self._draws = group_draws(self._images.group, self._images.stratum, N_DRAWS)
        predictions = self._images.predictions(outcome.probability)
        ends = interval(bootstrap_scores(predictions, self._draws))
        return float(ends.low), float(ends.high)

    def _prune(self, trial: Trial, pruned: Pruned) -> None:
        with self._told(trial), via_outbox(self._outbox, trial.number, pruned_record(trial, pruned), {}):
            self._engine.prune(trial.number, pruned.seconds)

    def _fail(self, trial: Trial, reason: str) -> None:
        with self._told(trial), via_outbox(self._outbox, trial.number, failed_record(trial, reason), {}):
            self._engine.fail(trial.number, reason)

    @contextmanager
    def _told(self, trial: Trial, probability: Array | None = None) -> Iterator[None]:
        """Around the end of a trial: whoever listens hears of it."""
        try:
            yield
        except TrialAlreadyEnded:  # it was taken for dead; what it gave is not counted twice
            probability = None
        self._ear.ended(trial.number, probability)

    @contextmanager
    def _beating(self, number: int) -> Iterator[None]:
        """Say from time to time that this process is alive, where the engine wants it."""
        every = self._engine.beat_seconds
        if every is None:
            yield
            return
        ended = threading.Event()

        def beat() -> None:
            self._engine.beat(number)
            while not ended.wait(every):
                self._engine.beat(number)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def failed_too_often(trials: Sequence[Trial], orders: StoppingCriteria) -> bool:
    """Whether too many trials failed in a row."""
    return len(last_failures(trials, orders.n_before)) >= orders.max_failures


def stagnated(trials: Sequence[Trial], most: int | None) -> bool:
    """Whether the last finished trials, so many in a row, were no better than those before."""
    if most is None:
        return False
    since = [0, *trials_since_improvement(trial.value for trial in trials if trial.counts)]
    return since[-1] >= most


def last_failures(trials: Sequence[Trial], n_before: int) -> list[Trial]:
    """Trials of this sitting that failed on their own, without a finished one behind them."""
    failures: list[Trial] = []
    for trial in reversed(trials[n_before:]):
        if trial.state == FAILED and trial.notes.get("reason") != INTERRUPTED:
            failures.append(trial)
        elif trial.counts:
            break
    return failures
