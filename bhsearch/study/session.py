"""The state of one session: one command at one study, from its opened storage to its last trial."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array
from bhsearch.engines.base import INTERRUPTED, Trial
from bhsearch.errors import BhsearchError, InputError, LostStorageError, RunError
from bhsearch.evaluation.predictions import Predictions
from bhsearch.runtime.cache import interprocess_lock
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.resume.lost_storage import write_trials
from bhsearch.study.resume.open import open_engine, study_lock
from bhsearch.study.resume.recovery import DIED, recover_dead_trials
from bhsearch.study.workers.worker import StoppingCriteria, last_failures, stagnated
from bhsearch.tracking import links
from bhsearch.tracking.upload.client import UploaderProcess
from bhsearch.tracking.upload.outbox import Outbox, all_outboxes, outbox_root

_LOCK_SECONDS = 2.0


class StudySession:
    """Engine, outbox, trials and predictions of one command at one study.

    Args:
        context: Context of the study.
        reporter: Receives progress events.

    Attributes:
        context: Context of the study.
        metadata: What the study keeps about itself.
        engine: Engine of the study.
        outbox: Outbox for finished trials; None without tracking.
        reporter: Receives progress events.
        criteria: When to stop.
        predictions: Out-of-fold predictions by number of the trial.
        examples: Pictures of each augmentation policy.
        run_ids: MLflow runs of trials that this session logged, by number.
        is_interrupted: Whether the search ended early, by an interrupt or the time limit.
        failure: Error to raise at the end of the session.
    """

    def __init__(self, context: StudyContext, reporter: ProgressReporter) -> None:
        self.context, self.reporter = context, reporter
        self.metadata, self.engine = open_engine(context)
        self.predictions: dict[int, Predictions] = {}
        self.examples: dict[str, npt.NDArray[np.uint8]] = {}
        self.is_interrupted = False
        self.failure: BhsearchError | OSError | None = None
        self.outbox: Outbox | None = None
        self.run_ids: dict[int, str] = {}
        self._known: list[Trial] = []  # as the engine last held them
        self._rescued: dict[int, Trial] = {}  # complete trials that the engine could not store
        if context.settings.tracking:
            try:
                self.outbox = Outbox.open(outbox_root(), self.metadata["uid"])
            except InputError:
                self.undo()
                raise
        self.criteria = StoppingCriteria(context.settings.trials, context.settings.max_failures, 0)

    def begin(self) -> int:
        """Recover dead trials and fix the stopping criteria. Returns how many trials remain to do."""
        self.recover()
        settings, trials = self.context.settings, self.trials()
        self.criteria = replace(
            self.criteria,
            n_before=len(trials),
            seconds=settings.timeout or float("inf"),
            max_memory_mb=settings.max_worker_memory or float("inf"),
            stagnation=settings.patience,
            points=tuple(self.metadata["warm"]["points"]),
        )
        is_over = stagnated(trials, settings.patience)
        return 0 if is_over else max(settings.trials - self.n_finished(), 0)

    # -- trials --------------------------------------------------------------------------------------------------------

    def trials(self) -> list[Trial]:
        """Return all trials; if the storage is lost, those that this session knows."""
        with suppress(LostStorageError):
            self._known = self.engine.trials()
            return self._known
        known = {trial.number: trial for trial in self._known} | self._rescued
        return [known[number] for number in sorted(known)]

    def n_finished(self) -> int:
        """Return how many trials count towards `--trials`."""
        return sum(trial.counts for trial in self.engine.trials())

    def best(self) -> Trial | None:
        """Return the complete trial with the highest score; None if no trial is complete."""
        return best_of(self.engine.trials())

    def trial_started(self, trial: Trial) -> None:
        """Report a trial that starts."""
        self.reporter.began(trial.number)

    def trial_ended(self, number: int, probability: Float32Array | None) -> None:
        """Keep the predictions of a trial that has ended, and report it.

        Args:
            number: Number of the trial.
            probability: Out-of-fold P(malignant), shape (n_repeats, n_images); None unless the trial is complete.
        """
        if probability is not None:
            self.predictions[number] = self.context.images.predictions(probability)
        self._known = trials = self.engine.trials()
        if trials[number].notes.get("reason") != INTERRUPTED:
            self.reporter.trial(trials[number], best_of(trials))

    def trial_rescued(self, trial: Trial, probability: Float32Array) -> None:
        """Keep a complete trial that the engine could not store, because its storage is lost."""
        self._rescued[trial.number] = trial
        self.predictions[trial.number] = self.context.images.predictions(probability)

    # -- recovery ------------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """End the trials of processes that died."""
        self._recover(None, DIED, True)

    def worker_died(self, owner: dict[str, Any] | None, sentence: str, again: bool) -> bool:
        """End the trial of a worker that died.

        Args:
            owner: Its process, as `this_process` returns it; None if it never connected.
            sentence: Reason of its death.
            again: Whether to retry its trial.

        Returns:
            Whether it had a trial.
        """
        return self._recover(owner, sentence, again)

    def _recover(self, owner: dict[str, Any] | None, sentence: str, again: bool) -> bool:
        def reason(trial: Trial) -> tuple[str, bool]:
            return (sentence, again) if trial.owner == owner else (DIED, True)

        recovered: list[Trial] = []
        # With a time limit: a worker that hangs may hold the lock, and only this process ends it. The next call
        # recovers what this one could not.
        with suppress(TimeoutError), study_lock(self.context, _LOCK_SECONDS):
            orphaned = [box for box in self._outboxes() if box.orphaned]
            recovered = recover_dead_trials(self.engine, self.outbox, orphaned, reason)
        for trial in recovered if owner is not None else ():
            self.trial_ended(trial.number, None)
        return any(trial.owner == owner for trial in recovered)

    def _outboxes(self) -> list[Outbox]:
        return all_outboxes(outbox_root(), self.metadata["uid"])

    def has_unsent_trials(self) -> bool:
        """Return whether this outbox, or one whose command is gone, holds trials that MLflow does not have."""
        return self.outbox is not None and any(
            box.waiting() for box in self._outboxes() if box.orphaned or box.folder == self.outbox.folder
        )

    # -- the end -------------------------------------------------------------------------------------------------------

    def is_refused(self, error: BhsearchError | OSError, uploader: UploaderProcess | None) -> bool:
        """Return whether an error came before the first trial, so that the session must leave nothing behind."""
        n_now = len(self.trials())
        was_refused = uploader is not None and not uploader.run_id and isinstance(error, InputError)
        return not n_now or (was_refused and n_now == self.criteria.n_before)

    def undo(self, uploader: UploaderProcess | None = None, is_lost: bool = False) -> None:
        """Remove everything that a refused session made: its outbox, and the study if it is new.

        Args:
            uploader: Process that logs, if it was started.
            is_lost: Whether the storage is lost, so that nothing can be deleted in it.
        """
        if uploader is not None:
            uploader.abandon()
        if self.outbox is not None:
            self.outbox.close()
        if is_lost or any(not box.orphaned for box in self._outboxes()):
            return
        with interprocess_lock(f"the storage {self.context.settings.storage}"):
            if not self.engine.trials():
                self.engine.delete()

    def annotate(self, number: int, experiment_id: str, run_id: str) -> None:
        """Store the MLflow run of a trial beside it. It is only for people, so an error is ignored."""
        self.run_ids[number] = run_id
        with suppress(Exception):
            url = links.run_url(experiment_id, run_id)
            self.engine.annotate(number, {"mlflow_run": run_id, "mlflow_url": url})

    def refresh(self) -> None:
        """Recover dead trials and read all trials again, after the search.

        Raises:
            LostStorageError: If the storage is lost.
        """
        self.recover()
        self._known = self.engine.trials()

    def fail(self, error: BhsearchError | OSError) -> None:
        """Keep the first error, to be raised at the end of the session."""
        self.failure = self.failure or error

    def raise_failure(self) -> None:
        """Raise the error that the session kept, or one for too many failed trials in a row.

        Raises:
            RunError: If `--max-failures` trials in a row failed.
        """
        if self.failure is not None:
            raise self._with_trials(self.failure)
        failures = last_failures(self.trials(), self.criteria.n_before)
        if len(failures) < self.criteria.max_failures:
            return
        reasons: dict[str, int] = {}
        for trial in failures:
            reason = trial.notes.get("reason", "unknown")
            reasons[reason] = reasons.get(reason, 0) + 1
        lines = "\n".join(f"  {count} x {reason}" for reason, count in reasons.items())
        most = self.criteria.max_failures
        raise RunError(f"{len(failures)} trials in a row failed (--max-failures {most}):\n{lines}")

    def _with_trials(self, error: BhsearchError | OSError) -> BhsearchError | OSError:
        """Add to the error of a lost storage where its trials are now."""
        if not isinstance(error, LostStorageError):
            return error
        if self.context.settings.tracking:
            return LostStorageError(
                f"{error} The finished trials are in MLflow. Put the file back, or name a new study with --study."
            )
        file: Path = write_trials(self.context.settings.storage, self.context.study, self.trials())
        return LostStorageError(f"{error} Its trials are written to {file}.")


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the complete trial with the highest score, the first of equals; None if no trial is complete."""
    complete = [trial for trial in trials if trial.value is not None]
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)
