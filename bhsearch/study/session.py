"""A session: the state of one command that runs trials of a study, from opening its storage to its last trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from bhsearch.study.feature_precision import precisions_of, stored_choices
from bhsearch.study.joined import with_joints_of
from bhsearch.study.resume.lost_storage import write_trials
from bhsearch.study.resume.open import open_engine, study_lock
from bhsearch.study.resume.recovery import DIED, recover_dead_trials
from bhsearch.study.workers.pool import n_workers
from bhsearch.study.workers.worker import StoppingCriteria, exceeds_budget, last_failures, stagnated
from bhsearch.text import verb
from bhsearch.tracking import links
from bhsearch.tracking.upload.client import UploaderProcess
from bhsearch.tracking.upload.outbox import Outbox, all_outboxes, outbox_root

_LOCK_SECONDS = 2.0


class StudySession:
    """The engine, outbox, trials and predictions of one command that runs trials of a study.

    Args:
        context: Context of the study.
        reporter: Receives progress events.
        recovers: Whether the session ends the trials of dead processes. If not, as in a command without an uploader,
            other commands do it.

    Attributes:
        context: Context of the study.
        metadata: Metadata of the study, as stored by the engine.
        engine: Engine of the study.
        outbox: Outbox for finished trials, from which the uploader logs to MLflow; None without tracking.
        reporter: Receives progress events.
        criteria: Stopping criteria of the search.
        predictions: Out-of-fold predictions by trial number.
        examples: Example images by augmentation policy.
        run_ids: MLflow run ids of the trials that this session logged, by trial number.
        is_interrupted: Whether an interrupt or the time limit ended the search early.
        has_jobs: Whether jobs on a cluster may still wait for the study or run its trials, so that the study must not
            be deleted, even without trials.
        failure: First error of the session, which is raised at its end; None if there was no error.
    """

    def __init__(self, context: StudyContext, reporter: ProgressReporter, *, recovers: bool = True) -> None:
        self.context, self.reporter, self._recovers = context, reporter, recovers
        self.metadata, self.engine = open_engine(context)
        self.predictions: dict[int, Predictions] = {}
        self.examples: Mapping[str, npt.NDArray[np.uint8]] = {}
        self.is_interrupted = self.has_jobs = False
        self.failure: BhsearchError | OSError | None = None
        self.outbox: Outbox | None = None
        self.run_ids: dict[int, str] = {}
        self._known: list[Trial] = []  # all trials when the engine last returned them
        self._rescued: dict[int, Trial] = {}  # complete trials that the engine could not store, by number
        if context.settings.tracking:
            try:
                self.outbox = Outbox.open(outbox_root(), self.metadata["uid"])
            except InputError:
                self.undo()
                raise
        self.criteria = StoppingCriteria(context.settings.trials, context.settings.max_failures, 0)

    def begin(self) -> int:
        """End trials of dead processes, set the stopping criteria, and return the number of trials still to run."""
        self.recover()
        for box in self._outboxes():
            if box.orphaned and box.begun and not box.holds() and box.end() is None:
                box.close()
        settings, trials = self.context.settings, self.stored_trials()
        self.criteria = replace(
            self.criteria,
            n_before=len(trials),
            seconds=settings.timeout or float("inf"),
            budget_seconds=60 * (settings.budget or float("inf")) * max(n_workers(settings), 1),
            max_memory_mb=settings.max_worker_memory or float("inf"),
            stagnation=settings.patience,
            points=tuple(self.metadata["warm"]["points"]),
        )
        is_over = stagnated(trials, settings.patience) or exceeds_budget(trials, self.criteria.budget_seconds)
        return 0 if is_over else max(settings.trials - n_finished(trials), 0)

    # -- trials --------------------------------------------------------------------------------------------------------

    def trials(self) -> list[Trial]:
        """Return all trials; if the storage is lost, return the trials that this session has seen."""
        with suppress(LostStorageError):
            return self.stored_trials()
        known = {trial.number: trial for trial in self._known} | self._rescued
        return [known[number] for number in sorted(known)]

    def stored_trials(self) -> list[Trial]:
        """Read all trials from the storage.

        Raises:
            LostStorageError: If the storage is lost.
        """
        self._known = self.engine.trials()
        return self._known

    def trial_started(self, trial: Trial) -> None:
        """Report the start of a trial."""
        self.reporter.began(trial.number)

    def trial_ended(self, number: int, probability: Float32Array | None) -> None:
        """Store the predictions of a trial that has ended, and report the trial.

        Args:
            number: Number of the trial.
            probability: Out-of-fold P(malignant), see `TrialResult.out_of_fold`; None unless the trial is complete.
        """
        if probability is not None:
            self.predictions[number] = self.context.images.predictions(probability)
        trials = self.stored_trials()
        if trials[number].notes.get("reason") != INTERRUPTED:
            self.reporter.trial(trials[number], best_of(trials))

    def trial_rescued(self, trial: Trial, probability: Float32Array) -> None:
        """Keep a complete trial in memory because the engine's storage is lost."""
        self._rescued[trial.number] = trial
        self.predictions[trial.number] = self.context.images.predictions(probability)

    # -- recovery ------------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """End the running trials of dead processes, unless other commands do it; see `recover_dead_trials`."""
        if self._recovers:
            self._recover(None, DIED, True)

    def worker_died(self, owner: dict[str, Any] | None, sentence: str, again: bool) -> bool:
        """End the trial of a worker that died.

        Args:
            owner: Host, process id and start time of the worker, from `this_process`; None if the worker never
                connected.
            sentence: Reason of the failure, which is stored with the trial.
            again: Whether to retry the trial.

        Returns:
            Whether the worker was running a trial.
        """
        return self._recover(owner, sentence, again)

    def _recover(self, owner: dict[str, Any] | None, sentence: str, again: bool) -> bool:
        def reason(trial: Trial) -> tuple[str, bool]:
            return (sentence, again) if trial.owner == owner else (DIED, True)

        recovered: list[Trial] = []
        # Waiting for the lock is limited because a hanging worker may hold it, and only this process can kill the
        # worker. The next call recovers the remaining trials.
        with suppress(TimeoutError), study_lock(self.context, _LOCK_SECONDS):
            orphaned = [box for box in self._outboxes() if box.orphaned]
            recovered = recover_dead_trials(self.engine, self.outbox, orphaned, reason)
        for trial in recovered if owner is not None else ():
            self.trial_ended(trial.number, None)
        return any(trial.owner == owner for trial in recovered)

    def _outboxes(self) -> list[Outbox]:
        return all_outboxes(outbox_root(), self.metadata["uid"])

    def has_unsent_trials(self) -> bool:
        """Return whether trials wait to be logged in the session's outbox or in the outbox of a dead command."""
        return self.outbox is not None and any(
            box.waiting() for box in self._outboxes() if box.orphaned or box.folder == self.outbox.folder
        )

    # -- the end -------------------------------------------------------------------------------------------------------

    def is_refused(self, error: BhsearchError | OSError, uploader: UploaderProcess | None) -> bool:
        """Return whether an error occurred before the session's first trial, so that the session must be undone.

        A session with jobs on a cluster is never undone, because they would not find the study.

        Args:
            error: The error.
            uploader: Process that logs to MLflow; None if it was not started.
        """
        if self.has_jobs:
            return False
        n_now = len(self.trials())
        was_refused = uploader is not None and not uploader.run_id and isinstance(error, InputError)
        return not n_now or (was_refused and n_now == self.criteria.n_before)

    def undo(self, uploader: UploaderProcess | None = None, is_lost: bool = False) -> None:
        """Remove everything that a refused session created: the outbox, and the study if it has no trials.

        Args:
            uploader: Process that logs to MLflow; None if it was not started.
            is_lost: Whether the storage is lost, in which case the study cannot be deleted.
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
        """Store the MLflow run of a trial with the trial, for display; errors are ignored."""
        self.run_ids[number] = run_id
        with suppress(Exception):
            url = links.run_url(experiment_id, run_id)
            self.engine.annotate(number, {"mlflow_run": run_id, "mlflow_url": url})

    def refresh(self) -> None:
        """End the running trials of dead processes, and reload what the search has stored, after the search.

        Raises:
            LostStorageError: If the storage is lost.
        """
        self.recover()
        self.stored_trials()
        self.context = replace(
            self.context,
            precisions=precisions_of(stored_choices(self.engine)),
            backbones=with_joints_of(self.context, self.engine),
        )

    def fail(self, error: BhsearchError | OSError) -> None:
        """Record an error to raise at the end of the session; only the first error is kept."""
        self.failure = self.failure or error

    def raise_failure(self) -> None:
        """Raise the recorded error, or an error if `--max-failures` consecutive trials failed; otherwise do nothing.

        Raises:
            RunError: If `--max-failures` consecutive trials failed.
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
        raise RunError(
            f"{verb(len(failures), 'The last trial', f'The last {len(failures)} trials')} failed (--max-failures "
            f"{most}):\n{lines}\nFix the cause, and repeat the "
            "command to continue the study."
        )

    def _with_trials(self, error: BhsearchError | OSError) -> BhsearchError | OSError:
        """Return the error; for a lost storage, the message also says where the trials are saved."""
        if not isinstance(error, LostStorageError):
            return error
        if self.context.settings.tracking:
            return LostStorageError(
                f"{error} The finished trials are in MLflow. Restore the file, or create a new study with --study."
            )
        file: Path = write_trials(self.context.settings.storage, self.context.study, self.trials())
        return LostStorageError(f"{error} Its trials were saved to {file}.")


def n_finished(trials: Sequence[Trial]) -> int:
    """Return the number of trials that count towards `--trials`."""
    return sum(trial.counts for trial in trials)


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the complete trial with the highest score, the earliest in case of a tie; None if none is complete."""
    complete = [trial for trial in trials if trial.value is not None]
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)
