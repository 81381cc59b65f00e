"""One study from start to end: its context, its session, its trials and its result."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from bhsearch.config import Settings
from bhsearch.data.arrays import Float32Array
from bhsearch.engines.base import Trial
from bhsearch.errors import BhsearchError, LostStorageError
from bhsearch.models.keras_settings import check_backend
from bhsearch.plugins import UnknownPartError
from bhsearch.runtime.cache import notes
from bhsearch.runtime.interrupts import Interrupts, deferred
from bhsearch.study.checks import disk_space
from bhsearch.study.checks.plugins import explain
from bhsearch.study.conclusion import conclude
from bhsearch.study.context import FINETUNE, FROZEN, StudyContext, gpu_here
from bhsearch.study.events import ProgressReporter
from bhsearch.study.objective_factory import make_objective
from bhsearch.study.payloads import study_record
from bhsearch.study.plan import make_plan
from bhsearch.study.result import StudyResult
from bhsearch.study.session import StudySession
from bhsearch.study.workers.pool import WorkerEvents, WorkerPool, n_workers
from bhsearch.study.workers.process import WorkerTask
from bhsearch.study.workers.worker import STOPPED, TIME, TrialCallbacks, Worker
from bhsearch.tracking.connection import check_store
from bhsearch.tracking.upload.client import UploaderProcess

_RECOVERY_SECONDS = 5.0  # between two recoveries while other commands run the last trials


def optimize(settings: Settings, reporter: ProgressReporter) -> StudyResult:
    """Run a study until it has the finished trials that were asked for.

    Args:
        settings: Settings of the study.
        reporter: Receives progress events.

    Returns:
        The result; partial if the study was interrupted or ran out of time.

    Raises:
        InputError: If anything the user gave is wrong; nothing was changed then.
        RunError: If too many trials failed in a row, or not everything could be logged.
    """
    check_backend()
    if settings.tracking:
        check_store()
    try:
        if settings.regime == "auto" and gpu_here():
            return _frozen_then_finetune(settings, reporter)
        return _run_study(settings, reporter)
    except UnknownPartError as error:
        raise explain(error, settings) from None


def _frozen_then_finetune(settings: Settings, reporter: ProgressReporter) -> StudyResult:
    """Run two studies, the second one started from the first."""
    n_finetune = settings.finetune_trials or settings.trials
    reporter.say(f"Two studies: {settings.trials} frozen trials, then {n_finetune} that finetune from what they found.")
    frozen = _run_study(replace(settings, regime=FROZEN, study=_part_name(settings, FROZEN)), reporter)
    if frozen.interrupted:
        return frozen
    finetune = replace(
        settings,
        regime=FINETUNE,
        study=_part_name(settings, FINETUNE),
        trials=n_finetune,
        init_from=frozen.study,
    )
    return replace(_run_study(finetune, reporter), before=frozen)


def _part_name(settings: Settings, regime: str) -> str | None:
    return f"{settings.study}-{regime}" if settings.study else None


def _run_study(settings: Settings, reporter: ProgressReporter) -> StudyResult:
    """Run one study. Workers import their framework while the data are read."""
    with WorkerPool(settings) if n_workers(settings) else nullcontext() as pool:
        context = StudyContext.build(settings, reporter)
        with reporter.step("opening the study"):
            session = StudySession(context, reporter)
        remaining = session.begin()
        uploader: UploaderProcess | None = None
        try:
            _show_plan(session, remaining)
            if remaining or session.has_unsent_trials():
                uploader = _start_uploader(session)
            if remaining:
                _search(session, pool, uploader)
        except (BhsearchError, OSError) as error:  # OSError: the output cannot be written any more
            if session.is_refused(error, uploader):
                session.undo(uploader, isinstance(error, LostStorageError))
                raise
            session.fail(error)
        try:
            session.refresh()
        except LostStorageError as error:
            session.fail(error)
        result = conclude(session, uploader)
        session.raise_failure()
        return result


def _show_plan(session: StudySession, remaining: int) -> None:
    """Report the plan, and refuse the study if a disk is certainly too small.

    Raises:
        PlaceError: If there is not enough space.
    """
    context = session.context
    plan = make_plan(context, context.space(session.metadata["backbones"]), session.n_finished())
    warnings = [*plan.warnings, *disk_space.warnings_of(context, remaining), *notes()]
    session.reporter.plan(replace(plan, warnings=warnings))
    if remaining:
        disk_space.require_space(context, remaining)


def _start_uploader(session: StudySession) -> UploaderProcess | None:
    """Describe the study in the outbox, and start the process that logs from it."""
    if session.outbox is None:
        return None
    context = session.context
    record = study_record(context, session.metadata, n_workers(context.settings))
    session.outbox.put_study(record, context.images.arrays())
    is_old = session.criteria.n_before > 0
    return UploaderProcess(session.outbox, session.reporter.say, patient=is_old, sent=session.annotate)


def _search(session: StudySession, pool: WorkerPool | None, uploader: UploaderProcess | None) -> None:
    """Run trials until a stopping criterion is met or the command is interrupted."""
    try:
        verdict = _in_this_process(session, uploader) if pool is None else _in_pool(session, pool, uploader)
    except KeyboardInterrupt:
        verdict = STOPPED
    session.is_interrupted = verdict in (STOPPED, TIME)
    if verdict == STOPPED:
        session.reporter.say("Interrupted. What is finished is kept; the same command goes on.")
    elif verdict == TIME:
        session.reporter.say(f"Time is up after {session.context.settings.timeout:g} s.")


def _in_pool(session: StudySession, pool: WorkerPool, uploader: UploaderProcess | None) -> str:
    folder = session.outbox.folder.resolve() if session.outbox is not None else None
    task = WorkerTask(session.context, session.metadata, folder, session.criteria)
    session.examples = pool.prepare(task, session.reporter)
    _wait_for(uploader, session.reporter)
    events = WorkerEvents(session.trial_ended, session.worker_died, session.recover, session.trial_rescued)
    with _trials(session):
        return pool.work(events, session.criteria.seconds)


def _in_this_process(session: StudySession, uploader: UploaderProcess | None) -> str:
    objective = make_objective(session.context, session.metadata["started_from"], session.reporter)
    session.examples = objective.examples()
    _wait_for(uploader, session.reporter)
    with _trials(session), deferred() as interrupts:
        callbacks = _InProcessCallbacks(session, interrupts)
        return Worker(
            session.context,
            session.metadata,
            session.engine,
            objective,
            session.outbox,
            session.criteria,
            callbacks,
        ).run()


def _trials(session: StudySession) -> AbstractContextManager[None]:
    return session.reporter.trials(session.n_finished(), session.context.settings.trials, session.best())


def _wait_for(uploader: UploaderProcess | None, reporter: ProgressReporter) -> None:
    if uploader is not None:
        with reporter.step("opening MLflow"):
            uploader.wait_until_ready()


class _InProcessCallbacks(TrialCallbacks):
    """Passes the events of trials that run in this process to their session."""

    def __init__(self, session: StudySession, interrupts: Interrupts) -> None:
        self._session, self._interrupts = session, interrupts
        self._recovered = time.monotonic()

    @property
    def stopping(self) -> bool:
        """Whether no further trial may start."""
        return self._interrupts.asked

    def interruptible(self) -> AbstractContextManager[None]:
        """Return a context in which an interrupt takes effect at once."""
        return self._interrupts.allowed()

    def started(self, trial: Trial) -> None:
        """Report a trial that starts."""
        self._session.trial_started(trial)

    def ended(self, number: int, probability: Float32Array | None) -> None:
        """Keep the result of a trial that has ended."""
        self._session.trial_ended(number, probability)

    def rescued(self, trial: Trial, probability: Float32Array) -> None:
        """Keep a complete trial that the engine could not store."""
        self._session.trial_rescued(trial, probability)

    def exhausted(self, sentence: str) -> None:
        """Report that the engine has no more parameters to propose."""
        self._session.reporter.say(sentence)

    def waiting(self) -> None:
        """Look for dead trials from time to time: other commands run the last trials, and one may have died."""
        if time.monotonic() > self._recovered + _RECOVERY_SECONDS:
            self._recovered = time.monotonic()
            self._session.recover()
