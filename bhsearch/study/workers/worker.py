"""The loop that runs trials one after another, in the process of the command or in a worker."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from bhsearch.data.arrays import Float32Array
from bhsearch.engines.base import (
    INTERRUPTED,
    Engine,
    SearchExhausted,
    Trial,
    TrialAlreadyEnded,
    result_attributes,
)
from bhsearch.errors import BhsearchError, InputError, LostStorageError
from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, interval
from bhsearch.evaluation.predictions import IntArray
from bhsearch.objectives.base import IntermediateValue, Pruned, TrialResult
from bhsearch.objectives.costs import FeatureCosts, rationed_seconds
from bhsearch.objectives.space import Params
from bhsearch.runtime.background import repeated
from bhsearch.runtime.processes import is_alive, memory_mb, this_process
from bhsearch.states import COMPLETE, FAILED, RUNNING
from bhsearch.study.context import StudyContext
from bhsearch.study.joined import TrialBackbones
from bhsearch.study.model_structures import ModelStructures
from bhsearch.study.objective_factory import Objective, resolved
from bhsearch.study.outcome.ranking import N_DRAWS
from bhsearch.study.payloads import complete_record, failed_record, now_ms, pruned_record
from bhsearch.study.resume.metadata import StudyMetadata
from bhsearch.study.resume.open import study_lock
from bhsearch.study.resume.recovery import next_retry, via_outbox
from bhsearch.study.resume.warm_start import next_warm
from bhsearch.study.stopping import trials_since_improvement
from bhsearch.tracking.upload.outbox import Outbox

# Reasons why a worker ends: study finished, time limit, memory limit, interrupt.
DONE, TIME, OUTGROWN, STOPPED = "done", "time", "outgrown", "stopped"
_WAIT_SECONDS = 0.2  # polling interval while other workers run the last trials


@dataclass(frozen=True)
class StoppingCriteria:
    """Limits at which a worker starts no further trial, and the points to try first.

    Attributes:
        trials: Number of finished trials of the whole study.
        max_failures: Number of consecutive failed trials, over all workers.
        n_before: Number of trials of earlier commands, whose failures do not count.
        seconds: Time limit after which no trial is started.
        max_memory_mb: Memory of the worker in MB above which it starts no further trial.
        budget_seconds: Seconds that the trials of the study should take together, over all commands and workers.
        stagnation: Number of consecutive finished trials without an improvement; None for no limit.
        points: Warm-start points from other studies, which are tried first.
    """

    trials: int
    max_failures: int
    n_before: int
    seconds: float = float("inf")
    max_memory_mb: float = float("inf")
    budget_seconds: float = float("inf")
    stagnation: int | None = None
    points: tuple[Params, ...] = ()


class TrialCallbacks:
    """Callbacks of a worker that do nothing; subclasses override them."""

    @property
    def stopping(self) -> bool:
        """Whether the worker must not start another trial."""
        return False

    def started(self, trial: Trial) -> None:
        """Handle the start of a trial."""

    def ended(self, number: int, probability: Float32Array | None) -> None:
        """Handle the end of a trial.

        Args:
            number: Number of the trial.
            probability: Out-of-fold P(malignant), see `TrialResult.out_of_fold`; None unless the trial is complete.
        """

    def rescued(self, trial: Trial, probability: Float32Array) -> None:
        """Handle a complete trial that the engine could not store because its storage is lost."""

    def waiting(self) -> None:
        """Handle that no trial can be started, because other workers run the last trials; called repeatedly."""

    def exhausted(self, sentence: str) -> None:
        """Handle that the sampler has no more points to propose; `sentence` is a message for the user."""

    def interruptible(self) -> AbstractContextManager[None]:
        """Return a context manager in which an interrupt takes effect immediately."""
        return nullcontext()


class Worker:
    """A loop that runs trials one after another until a stopping criterion is met.

    Args:
        prepared: Context of the study.
        metadata: Metadata of the study.
        engine: Engine of the study.
        objective: Objective, which scores the parameters of a trial.
        outbox: Outbox that receives the records of trials; None without tracking.
        criteria: Stopping criteria.
        callbacks: Callbacks for the events of trials.
    """

    def __init__(
        self,
        prepared: StudyContext,
        metadata: StudyMetadata,
        engine: Engine,
        objective: Objective,
        outbox: Outbox | None,
        criteria: StoppingCriteria,
        callbacks: TrialCallbacks,
    ) -> None:
        self._prepared, self._engine, self._objective, self._outbox = prepared, engine, objective, outbox
        self._criteria, self._callbacks = criteria, callbacks
        self._space = prepared.space(metadata["backbones"])
        self._deadline = time.monotonic() + criteria.seconds
        self._worked = False
        self._images = prepared.images
        self._draws: IntArray | None = None
        self._backbones = TrialBackbones(prepared, engine, objective)
        self._structures = ModelStructures(prepared) if outbox is not None else None

    def run(self) -> str:
        """Run trials until a stopping criterion is met.

        Returns:
            Reason of the end: `DONE`, `TIME`, `OUTGROWN` or `STOPPED`.

        Raises:
            KeyboardInterrupt: If the worker was interrupted; its running trial has been marked failed.
            InputError: If a trial failed with an error that would recur in the next trial, such as a full disk.
        """
        while True:
            if self._callbacks.stopping:
                return STOPPED
            if self._worked and memory_mb() > self._criteria.max_memory_mb:  # every worker runs at least one trial
                return OUTGROWN
            with study_lock(self._prepared):
                trials = self._engine.trials()
                self._forget_own(trials)
                if is_over(trials, self._criteria):
                    return DONE
                if time.monotonic() > self._deadline:
                    return TIME
                n_running = sum(trial.state == RUNNING and is_alive(trial.owner) for trial in trials)
                spare = n_missing(trials, self._criteria) - n_running
                try:
                    trial = self._ask(trials) if spare > 0 else None
                except SearchExhausted as end:
                    self._callbacks.exhausted(str(end))
                    return DONE
            if trial is None:
                self._callbacks.waiting()
                time.sleep(_WAIT_SECONDS)
            else:
                self._one_trial(trial)
                self._worked = True

    def _forget_own(self, trials: Sequence[Trial]) -> None:
        """Fail running trials that this process owns, although it runs no trial when this method is called.

        If the connection is lost while a trial is started, the storage may contain the trial without the worker's
        knowledge.
        """
        me = this_process()
        for trial in trials:
            if trial.state == RUNNING and trial.owner == me:
                self._fail(trial, INTERRUPTED)

    def _ask(self, trials: Sequence[Trial]) -> Trial:
        """Start and return a trial: a retry if one is due, else the next warm-start point, else a sampled point."""
        notes: dict[str, Any] = {"started_ms": now_ms()}
        if self._outbox is not None:
            notes["outbox"] = str(
                self._outbox.folder.resolve()
            )  # other commands look in this folder to learn whether the trial is still to be logged
        again = next_retry(trials, [row.name for row in self._space])
        if again is None:
            place = next_warm(self._criteria.points, trials)
            if place is not None:
                return self._engine.ask(self._criteria.points[place], notes | {"warm": place})
            return self._engine.ask(None, notes, self._rationed_seconds(trials))
        attempt = again.notes.get("attempt", 0) + 1
        return self._engine.ask(again.params, notes | {"retry_of": again.number, "attempt": attempt})

    def _rationed_seconds(self, trials: Sequence[Trial]) -> float:
        left = seconds_left(trials, self._criteria.budget_seconds)
        if math.isinf(left):
            return left
        costs, tried = FeatureCosts.of_record(self._engine.costs()), [trial.params for trial in trials]
        n_more = self._criteria.trials - sum(trial.counts for trial in trials)
        return rationed_seconds(left, costs, self._space, tried, n_more, min(seconds_of(trials), default=0.0))

    def _one_trial(self, trial: Trial) -> None:
        def watch(report: IntermediateValue) -> None:
            if self._engine.report(trial.number, report):
                raise Pruned

        self._callbacks.started(trial)
        try:
            self._backbones.require(trial)
            with self._beating(trial.number), self._callbacks.interruptible():
                outcome = self._objective(trial.params, watch)
        except KeyboardInterrupt:
            self._fail(trial, INTERRUPTED)
            raise
        except Pruned as pruned:
            self._prune(trial, pruned)
        except InputError as error:  # the error would recur in the next trial
            self._fail(trial, str(error))
            raise
        except Exception as error:  # a trial may fail in any way; the study continues, and the reason is stored
            self._fail(trial, str(error) if isinstance(error, BhsearchError) else f"{type(error).__name__}: {error}")
        else:
            self._complete(trial, outcome)

    def _complete(self, trial: Trial, outcome: TrialResult) -> None:
        """Put the result of a trial into the outbox, then end the trial in the engine.

        In this order, the result survives if the process is killed between the two steps.
        """
        ends = self._interval(outcome)
        settings = self._prepared.settings
        now = resolved(self._prepared.regime, settings.feature_backend, settings.precision)
        name = trial.params["backbone"]
        precision, joined = self._backbones.precision(name), self._backbones.joined(name)
        record, arrays = complete_record(trial, outcome, ends, now, precision, joined)
        if self._structures is not None:
            self._structures.prepare(self._backbones.get(name), outcome)
        try:
            with self._reported(trial, outcome.out_of_fold), via_outbox(self._outbox, trial.number, record, arrays):
                self._engine.complete(trial.number, outcome.score, outcome.seconds, ends, outcome.milliseconds)
        except LostStorageError:
            notes = {**trial.notes, **result_attributes(outcome.seconds, ends, outcome.milliseconds)}
            self._callbacks.rescued(
                replace(trial, state=COMPLETE, value=outcome.score, notes=notes), outcome.out_of_fold
            )
            raise

    def _interval(self, outcome: TrialResult) -> tuple[float, float]:
        """Return the score's 95 % bootstrap confidence interval, computed as in the result and the report."""
        if self._draws is None:
            self._draws = group_draws(self._images.group, self._images.stratum, N_DRAWS)
        predictions = self._images.predictions(outcome.out_of_fold)
        ends = interval(bootstrap_scores(predictions, self._draws, self._prepared.task))
        return float(ends.low), float(ends.high)

    def _prune(self, trial: Trial, pruned: Pruned) -> None:
        with self._reported(trial), via_outbox(self._outbox, trial.number, pruned_record(trial, pruned), {}):
            self._engine.prune(trial.number, pruned.seconds)

    def _fail(self, trial: Trial, reason: str) -> None:
        with self._reported(trial), via_outbox(self._outbox, trial.number, failed_record(trial, reason), {}):
            self._engine.fail(trial.number, reason)

    @contextmanager
    def _reported(self, trial: Trial, probability: Float32Array | None = None) -> Iterator[None]:
        """Run the block that ends a trial in the engine, then call the callback `ended`."""
        try:
            yield
        except TrialAlreadyEnded:  # another process assumed that the trial was dead and failed it; discard the result
            probability = None
        self._callbacks.ended(trial.number, probability)

    @contextmanager
    def _beating(self, number: int) -> Iterator[None]:
        """Send heartbeats during the block, if the engine needs them; `ask` has sent the first one."""
        every = self._engine.beat_seconds
        if every is None:
            yield
            return
        with repeated(lambda: self._engine.beat(number), every, at_once=False):
            yield


def n_missing(trials: Sequence[Trial], criteria: StoppingCriteria) -> int:
    """Return the number of finished trials that a study still needs; not positive if it has all."""
    return criteria.trials - sum(trial.counts for trial in trials)


def is_over(trials: Sequence[Trial], criteria: StoppingCriteria) -> bool:
    """Return whether a study has all its trials or meets another stopping criterion, other than the time limit."""
    return (
        n_missing(trials, criteria) <= 0
        or failed_too_often(trials, criteria)
        or stagnated(trials, criteria.stagnation)
        or exceeds_budget(trials, criteria.budget_seconds)
    )


def failed_too_often(trials: Sequence[Trial], criteria: StoppingCriteria) -> bool:
    """Return whether the last `max_failures` finished trials of this command have all failed."""
    return len(last_failures(trials, criteria.n_before)) >= criteria.max_failures


def stagnated(trials: Sequence[Trial], most: int | None) -> bool:
    """Return whether the last `most` finished trials did not improve the best score; False if `most` is None."""
    if most is None:
        return False
    since = [0, *trials_since_improvement(trial.value for trial in trials if trial.counts)]
    return since[-1] >= most


def seconds_left(trials: Sequence[Trial], budget_seconds: float) -> float:
    """Return the part of a budget that the finished trials have not used, and the running ones will not use.

    A running trial is expected to take as long as the median of the finished ones.
    """
    if math.isinf(budget_seconds):
        return budget_seconds
    took = seconds_of(trials)
    n_running = sum(trial.state == RUNNING for trial in trials)
    return budget_seconds - sum(took) - (n_running * median(took) if took else 0.0)


def exceeds_budget(trials: Sequence[Trial], budget_seconds: float) -> bool:
    """Return whether another trial, of the median duration of the finished ones, is expected to exceed a budget."""
    if math.isinf(budget_seconds):
        return False
    took = seconds_of(trials)
    return bool(took) and seconds_left(trials, budget_seconds) < median(took)


def seconds_of(trials: Sequence[Trial]) -> list[float]:
    """Return the durations of the finished trials in seconds."""
    return [trial.notes["seconds"] for trial in trials if trial.counts and "seconds" in trial.notes]


def last_failures(trials: Sequence[Trial], n_before: int) -> list[Trial]:
    """Return the failed trials since the last finished one, latest first, without interrupted trials.

    Args:
        trials: All trials of the study, ordered by number.
        n_before: Number of trials of earlier commands, which are ignored.
    """
    failures: list[Trial] = []
    for trial in reversed(trials[n_before:]):
        if trial.state == FAILED and trial.notes.get("reason") != INTERRUPTED:
            failures.append(trial)
        elif trial.counts:
            break
    return failures
