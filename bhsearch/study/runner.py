"""One study from start to end: the only place where data, networks, engine and tracking meet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.config import Settings
from bhsearch.data.arrays import Float32Array as Array
from bhsearch.engines.base import INTERRUPTED, Trial
from bhsearch.engines.optuna.importances import importance_spread
from bhsearch.errors import BhsearchError, InputError, LostStorageError, RunError, StudyError
from bhsearch.evaluation.predictions import Predictions
from bhsearch.models.keras_settings import check_backend
from bhsearch.runtime.cache import interprocess_lock, notes
from bhsearch.runtime.interrupts import Interrupts, deferred
from bhsearch.runtime.plugins import UnknownPartError
from bhsearch.runtime.processes import is_here
from bhsearch.states import RUNNING
from bhsearch.study import context, disk_space
from bhsearch.study.context import FINETUNE, FROZEN, StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.lost_storage import write_trials
from bhsearch.study.objective_factory import make_objective
from bhsearch.study.open import open_engine, study_lock
from bhsearch.study.parts import explain
from bhsearch.study.payloads import study_arrays, study_record
from bhsearch.study.recall import experiment_of, outbox_predictions, stored_predictions
from bhsearch.study.recovery import DIED, recover_dead_trials
from bhsearch.study.result import StudyResult, correct, rank
from bhsearch.study.summary import end_record
from bhsearch.study.workers.pool import WorkerEvents, WorkerPool, n_workers
from bhsearch.study.workers.process import WorkerTask
from bhsearch.study.workers.worker import (
    STOPPED,
    TIME,
    StoppingCriteria,
    TrialCallbacks,
    Worker,
    last_failures,
    stagnated,
)
from bhsearch.tracking import links
from bhsearch.tracking.connection import check_store
from bhsearch.tracking.upload.client import UploaderProcess
from bhsearch.tracking.upload.outbox import Outbox, all_outboxes, outbox_root

_ALONE_SECONDS = 2.0
_SETTLE_SECONDS = 5.0  # between two looks for the dead, while the last trials run elsewhere


def optimize(settings: Settings, reporter: ProgressReporter) -> StudyResult:
    """Run a study until it has the finished trials that were asked for.

    Args:
        settings: What to do.
        reporter: Hears of it.

    Returns:
        The study's result; partial if the study was interrupted or ran out of time.

    Raises:
        InputError: If anything the user gave is wrong; nothing was changed then.
        RunError: If too many trials failed in a row, or not everything could be logged.
    """
    check_backend()
    if settings.tracking:
        check_store()
    try:
        if settings.regime == "auto" and context.gpu_here():
            return _frozen_then_finetune(settings, reporter)
        return _study(settings, reporter)
    except UnknownPartError as error:
        raise explain(error, settings) from None


def _study(settings: Settings, reporter: ProgressReporter) -> StudyResult:
    """One study. Workers import their framework while the data are read."""
    with WorkerPool(settings) if n_workers(settings) else nullcontext() as crew:
        prepared = context.build_context(settings, reporter)
        with reporter.step("opening the study"):
            session = StudySession(prepared, reporter, crew)
        return session.run()


def _frozen_then_finetune(settings: Settings, reporter: ProgressReporter) -> StudyResult:
    """Two studies, the second started from the first."""
    n_finetune = settings.finetune_trials or settings.trials
    reporter.say(f"Two studies: {settings.trials} frozen trials, then {n_finetune} that finetune from what they found.")
    frozen = _study(replace(settings, regime=FROZEN, study=_part(settings, FROZEN)), reporter)
    if frozen.interrupted:
        return frozen
    changes: dict[str, Any] = {"regime": FINETUNE, "study": _part(settings, FINETUNE), "trials": n_finetune}
    return replace(_study(replace(settings, **changes, init_from=frozen.study), reporter), before=frozen)


def _part(settings: Settings, regime: str) -> str | None:
    return f"{settings.study}-{regime}" if settings.study else None


class StudySession:
    """One sitting at a study.

    Args:
        prepared: Of the study.
        reporter: Hears of it.
        crew: The workers; None to run trials in this process.
    """

    def __init__(self, prepared: StudyContext, reporter: ProgressReporter, crew: WorkerPool | None) -> None:
        self._prepared, self._settings, self._reporter = prepared, prepared.settings, reporter
        self._crew = crew
        self._template = prepared.template()
        self._run_ids: dict[int, str] = {}  # MLflow runs of trials, by number
        self._predictions: dict[int, Predictions] = {}
        self._facts, self._engine = open_engine(prepared)
        self._outbox: Outbox | None = None
        if self._settings.tracking:
            try:
                self._outbox = Outbox.open(outbox_root(), self._facts["uid"])
            except InputError:
                self._undo(None)
                raise
        self._examples: dict[str, Any] = {}  # what each policy of augmentation does
        self._interrupted = False
        self._orders = StoppingCriteria(self._settings.trials, self._settings.max_failures, 0)
        self._failure: BhsearchError | OSError | None = None
        self._known: list[Trial] = []  # as the engine held them last
        self._rescued: dict[int, Trial] = {}  # of which it could not be told

    def run(self) -> StudyResult:
        """Everything after the study is open."""
        self._settle()
        trials = self._trials()
        self._orders = replace(
            self._orders,
            n_before=len(trials),
            max_memory_mb=self._settings.max_worker_memory or float("inf"),
            stagnation=self._settings.patience,
            points=tuple(self._facts["warm"]["points"]),
        )
        finished = sum(trial.counts for trial in trials)
        space = self._prepared.space(self._facts["backbones"])
        plan = context.make_plan(self._prepared, space, finished)
        stagnation = self._settings.patience
        remaining = 0 if stagnated(trials, stagnation) else max(self._settings.trials - finished, 0)
        warnings = [*plan.warnings, *disk_space.warnings_of(self._prepared, remaining), *notes()]
        wanted = remaining > 0
        process = None
        try:
            self._reporter.plan(replace(plan, warnings=warnings))
            if wanted:
                disk_space.require_space(self._prepared, remaining)
            if wanted or self._has_mail():
                process = self._start_logging(bool(trials))
            if wanted:
                self._search(process)
        except (BhsearchError, OSError) as error:  # the latter where the output cannot be written any more
            n_now, is_lost = len(self._trials()), isinstance(error, LostStorageError)
            was_refused = process is not None and not process.run_id and isinstance(error, InputError)
            if not n_now or (was_refused and n_now == len(trials)):
                self._undo(process, is_lost)
                raise
            self._failure = error
        try:
            self._settle()
            self._known = self._engine.trials()
        except LostStorageError as error:
            self._failure = self._failure or error
        result = self._end(process)
        if self._failure is not None:
            raise self._with_trials(self._failure)
        self._raise_for_failures()
        return result

    # -- the dead -----------------------------------------------------------------------------------------------------

    def _settle(self, owner: dict[str, Any] | None = None, sentence: str = DIED, again: bool = True) -> bool:
        """End what processes left behind that died; of this one it is known why it did. Returns whether it left any."""

        def reason(trial: Trial) -> tuple[str, bool]:
            return (sentence, again) if trial.owner == owner else (DIED, True)

        settled: list[Trial] = []
        # Not for ever: a worker that hangs may be in it, and this process is the one to end it. The next look settles.
        with suppress(TimeoutError), study_lock(self._prepared, _ALONE_SECONDS):
            orphaned = [box for box in all_outboxes(outbox_root(), self._facts["uid"]) if box.orphaned]
            settled = recover_dead_trials(self._engine, self._outbox, orphaned, reason)
        for trial in settled if owner is not None else ():
            self._ended(trial.number, None)
        return any(trial.owner == owner for trial in settled)

    def _has_mail(self) -> bool:
        return self._outbox is not None and any(
            box.waiting()
            for box in all_outboxes(outbox_root(), self._facts["uid"])
            if box.orphaned or box.folder == self._outbox.folder
        )

    def _undo(self, process: UploaderProcess | None, is_lost: bool = False) -> None:
        """Leave nothing of a command that was refused before its first trial, nor of its study if that is new."""
        if process is not None:
            process.abandon()
        if self._outbox is not None:
            self._outbox.close()
        others = [box for box in all_outboxes(outbox_root(), self._facts["uid"]) if not box.orphaned]
        if is_lost or others:
            return
        with interprocess_lock(f"the storage {self._settings.storage}"):
            if not self._engine.trials():
                self._engine.delete()

    def _trials(self) -> list[Trial]:
        """All trials; where the storage is lost, those that are known."""
        with suppress(LostStorageError):
            self._known = self._engine.trials()
            return self._known
        known = {trial.number: trial for trial in self._known} | self._rescued
        return [known[number] for number in sorted(known)]

    def _with_trials(self, error: BhsearchError | OSError) -> BhsearchError | OSError:
        """What a command says of a lost storage: where its trials are now."""
        if not isinstance(error, LostStorageError):
            return error
        if self._settings.tracking:
            return LostStorageError(
                f"{error} The finished trials are in MLflow. Put the file back, or name a new study with --study."
            )
        file = write_trials(self._settings.storage, self._prepared.study, self._trials())
        return LostStorageError(f"{error} Its trials are written to {file}.")

    def _finished(self) -> int:
        return sum(trial.counts for trial in self._engine.trials())

    def _best(self) -> Trial | None:
        return best_of(self._engine.trials())

    # -- searching ----------------------------------------------------------------------------------------------------

    def _search(self, process: UploaderProcess | None) -> None:
        """Run trials until there are enough, time is up, too many failed, or someone interrupts."""
        self._orders = replace(self._orders, seconds=self._settings.timeout or float("inf"))
        try:
            verdict = self._with_crew(process) if self._crew is not None else self._in_this_process(process)
        except KeyboardInterrupt:
            verdict = STOPPED
        self._interrupted = verdict in (STOPPED, TIME)
        if verdict == STOPPED:
            self._reporter.say("Interrupted. What is finished is kept; the same command goes on.")
        elif verdict == TIME:
            self._reporter.say(f"Time is up after {self._settings.timeout:g} s.")

    def _with_crew(self, process: UploaderProcess | None) -> str:
        assert self._crew is not None
        folder = self._outbox.folder.resolve() if self._outbox is not None else None
        task = WorkerTask(self._prepared, self._facts, folder, self._orders)
        self._examples = self._crew.prepare(task, self._reporter)
        self._await(process)
        watch = WorkerEvents(self._ended, self._settle, self._settle, self._rescue)
        with self._reporter.trials(self._finished(), self._settings.trials, self._best()):
            return self._crew.work(watch, self._orders.seconds)

    def _in_this_process(self, process: UploaderProcess | None) -> str:
        objective = make_objective(self._prepared, self._facts["started_from"], self._reporter)
        self._examples = objective.examples()
        self._await(process)
        with self._reporter.trials(self._finished(), self._settings.trials, self._best()), deferred() as interrupts:
            ear = _InProcessCallbacks(self, interrupts)
            worker = Worker(self._prepared, self._facts, self._engine, objective, self._outbox, self._orders, ear)
            return worker.run()

    def _await(self, process: UploaderProcess | None) -> None:
        if process is not None:
            with self._reporter.step("opening MLflow"):
                process.wait_until_ready()

    def _ended(self, number: int, probability: Array | None) -> None:
        if probability is not None:
            self._predictions[number] = replace(self._template, probability=probability)
        self._known = trials = self._engine.trials()
        if trials[number].notes.get("reason") == INTERRUPTED:
            return
        self._reporter.trial(trials[number], best_of(trials))

    def _rescue(self, trial: Trial, probability: Array) -> None:
        """Keep a trial of which the engine could not be told."""
        self._rescued[trial.number] = trial
        self._predictions[trial.number] = replace(self._template, probability=probability)

    # -- ending -------------------------------------------------------------------------------------------------------

    def _start_logging(self, is_old: bool) -> UploaderProcess | None:
        """Say what the trials are of, and start the process that logs them."""
        if self._outbox is None:
            return None
        record = study_record(self._prepared, self._facts, len(self._template), n_workers(self._settings))
        self._outbox.put_study(record, study_arrays(self._template))
        return UploaderProcess(self._outbox, self._reporter.say, patient=is_old, sent=self._link)

    def _links(self, process: UploaderProcess | None) -> tuple[str, ...]:
        """Addresses of the trials in MLflow: as a table, and in parallel coordinates."""
        experiment_id = ""
        if process is not None:
            experiment_id = process.experiment_id
        elif self._settings.tracking:  # nothing was left to do
            with suppress(Exception):  # a link is worth no failure
                experiment_id = experiment_of(self._prepared.index.name)
        return (links.trials_url(experiment_id), links.parallel_url(experiment_id)) if experiment_id else ()

    def _link(self, number: int, experiment_id: str, run_id: str) -> None:
        """Keep beside a trial where its run is. It is for people only: what fails here is not worth a word."""
        self._run_ids[number] = run_id
        url = links.run_url(experiment_id, run_id)
        with suppress(Exception):
            self._engine.annotate(number, {"mlflow_run": run_id, "mlflow_url": url})

    def _end(self, process: UploaderProcess | None) -> StudyResult:
        """Rank what there is, hand the study's end to the process that logs, and wait for it."""
        records = self._trials()
        prepared = self._prepared
        with self._reporter.step("reading predictions"):
            self._recall(records)
            earlier = self._earlier()
        with self._reporter.step("comparing trials"):
            ranking = rank(records, self._predictions)
            correction = correct(records, self._predictions, *earlier)
        result = StudyResult(
            prepared.study, prepared.index.name, ranking, records, self._settings.trials, prepared.note,
            prepared.split.leaks, self._settings.tracking, self._interrupted, *correction,
            stagnation=self._settings.patience if stagnated(records, self._orders.stagnation) else None,
            findings=prepared.audit.summary_lines(),
            best_predictions=self._predictions.get(ranking[0].trial.number) if ranking else None,
        )  # fmt: skip
        if process is not None and self._outbox is not None:
            is_lost = isinstance(self._failure, LostStorageError)
            importances = {} if is_lost else self._engine.importances()
            spread: dict[str, float] = {}
            if importances:
                with self._reporter.step("weighing parameters") as progress:
                    spread = importance_spread(records, prepared.space(self._facts["backbones"]), progress)
            record = end_record(result, importances, list(self._examples), self._settled(records), spread)
            record["lost"] = str(self._failure) if is_lost else ""
            pictures = {"augmentation": np.stack([*self._examples.values()])} if self._examples else {}
            self._outbox.put_summary(record, pictures)
            with self._reporter.step("logging to MLflow") as progress:
                process.finish(progress)
        elif self._outbox is not None:
            self._outbox.close()
        for trial in records:  # the runs of the last trials are known only now
            if trial.number in self._run_ids:
                trial.notes["mlflow_run"] = self._run_ids[trial.number]
        return replace(result, links=self._links(process))

    def _recall(self, records: list[Trial]) -> None:
        """Get the predictions of earlier sittings and of other commands, where they can be had."""
        missing = [trial for trial in records if trial.value is not None and trial.number not in self._predictions]
        if not missing or not self._settings.tracking:
            return
        others = all_outboxes(outbox_root(), self._facts["uid"])
        waiting, stored = outbox_predictions(others, self._template), self._stored(self._facts["uid"])
        self._predictions = waiting | (stored or {}) | self._predictions
        if stored is None:
            return
        lost = [trial.number for trial in missing if trial.number not in self._predictions]
        if lost:
            self._reporter.say(
                f"{len(lost)} finished trials are not in this MLflow store; they count, but have no interval."
            )

    def _stored(self, uid: str) -> dict[int, Predictions] | None:
        """Predictions that MLflow has; None if it could not be asked, which then fails the command at its end."""
        try:
            return stored_predictions(self._prepared.index.name, uid)
        except (StudyError, RunError) as error:  # else "not there" would be said of trials that nobody could ask for
            self._failure = self._failure or error
            return None

    def _earlier(self) -> tuple[list[Predictions], int]:
        """Predictions of the study that this one was started from, and how many there should be at least.

        Its trials took part in the choice.
        """
        origin = self._facts["started_from"]
        if not origin:
            return [], 0
        found = self._stored(origin["uid"]) if self._settings.tracking else {}
        return list((found or {}).values()), origin["complete"]

    def _settled(self, records: list[Trial]) -> list[int]:
        """Trials that have ended on this machine, and that no other command is about to log, wherever it was begun."""
        assert self._outbox is not None
        here = [trial for trial in records if is_here(trial.owner)]
        folders = {Path(trial.notes["outbox"]) for trial in here if "outbox" in trial.notes}
        folders |= {box.folder.resolve() for box in self._outbox.others()}
        others = folders - {self._outbox.folder.resolve()}
        waiting = {number for folder in others for number in Outbox(folder, make=False).holds()}
        return [trial.number for trial in here if trial.state != RUNNING and trial.number not in waiting]

    def _raise_for_failures(self) -> None:
        failures = last_failures(self._trials(), self._orders.n_before)
        if len(failures) >= self._settings.max_failures:
            reasons: dict[str, int] = {}
            for trial in failures:
                reason = trial.notes.get("reason", "unknown")
                reasons[reason] = reasons.get(reason, 0) + 1
            lines = "\n".join(f"  {count} x {reason}" for reason, count in reasons.items())
            raise RunError(
                f"{len(failures)} trials in a row failed (--max-failures {self._settings.max_failures}):\n{lines}"
            )


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the highest score, the first of equals; None if no trial is complete."""
    complete = [trial for trial in trials if trial.value is not None]
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)


class _InProcessCallbacks(TrialCallbacks):
    """Hears of trials that run in the search's own process."""

    def __init__(self, session: StudySession, interrupts: Interrupts) -> None:
        self._session, self._interrupts = session, interrupts
        self._settled = time.monotonic()

    @property
    def stopping(self) -> bool:
        """Whether the worker is to start no trial."""
        return self._interrupts.asked

    def interruptible(self) -> AbstractContextManager[None]:
        """Around what may be interrupted."""
        return self._interrupts.allowed()

    def ended(self, number: int, probability: Array | None) -> None:
        """A trial has ended."""
        self._session._ended(number, probability)

    def started(self, trial: Trial) -> None:
        """A trial begins."""
        self._session._reporter.began(trial.number)

    def rescued(self, trial: Trial, probability: Array) -> None:
        """A trial is complete, but the engine could not be told."""
        self._session._rescue(trial, probability)

    def exhausted(self, sentence: str) -> None:
        """The engine has no more points to propose."""
        self._session._reporter.say(sentence)

    def waiting(self) -> None:
        """Others run the last trials; one may have died."""
        if time.monotonic() > self._settled + _SETTLE_SECONDS:
            self._settled = time.monotonic()
            self._session._settle()
