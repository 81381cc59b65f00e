"""Run a study from settings to result: build its context, open its session, run its trials, rank them."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from bhsearch.config import ALL, FEATURES, SUMMARY, TRIALS, Settings
from bhsearch.data.arrays import Float32Array
from bhsearch.engines.base import Trial
from bhsearch.errors import BhsearchError, LostStorageError
from bhsearch.models import backend
from bhsearch.models.keras_settings import check_backend
from bhsearch.plugins import UnknownPartError
from bhsearch.runtime.cache import notes
from bhsearch.runtime.interrupts import Interrupts, deferred
from bhsearch.study.checks import disk_space
from bhsearch.study.checks.combine import check_combine, check_joinable
from bhsearch.study.checks.plugins import explain
from bhsearch.study.checks.shift_weight import check_shift_weight
from bhsearch.study.checks.vectors import check_vectors
from bhsearch.study.cluster.checks import cluster_launcher, for_cluster
from bhsearch.study.cluster.features import compute_features
from bhsearch.study.cluster.placed import LEFT, jobs_of, run_jobs, write_jobs
from bhsearch.study.cluster.settling import wait_for_dead_trials
from bhsearch.study.context import FINETUNE, FROZEN, StudyContext
from bhsearch.study.events import ProgressReporter, StudyPlan
from bhsearch.study.feature_costs import cost_rows, stored_costs
from bhsearch.study.feature_precision import check_feature_precision
from bhsearch.study.objective_factory import make_objective
from bhsearch.study.outcome.conclusion import conclude, conclude_part, partial_result
from bhsearch.study.outcome.nested import check_nested
from bhsearch.study.outcome.race import check_race, race_images
from bhsearch.study.outcome.result import StudyResult
from bhsearch.study.payloads import study_record
from bhsearch.study.plan import make_plan
from bhsearch.study.session import StudySession, best_of, n_finished
from bhsearch.study.workers.launchers.jobs import ClusterLauncher
from bhsearch.study.workers.messages import WorkerTask
from bhsearch.study.workers.pool import WorkerEvents, WorkerPool, n_workers
from bhsearch.study.workers.worker import STOPPED, TIME, TrialCallbacks, Worker
from bhsearch.tracking.connection import check_store
from bhsearch.tracking.upload.client import UploaderProcess

_RECOVERY_SECONDS = 5.0  # interval between recoveries of dead trials while other commands run the last trials


def optimize(settings: Settings, reporter: ProgressReporter) -> StudyResult:
    """Run a study until it has the requested number of finished trials.

    Args:
        settings: Settings of the study.
        reporter: Receives progress events.

    Returns:
        Result of the study; it covers fewer trials if the study was interrupted or reached its time limit.

    Raises:
        InputError: If a setting or an input file is invalid; no study is created or changed in this case.
        RunError: If `--max-failures` consecutive trials failed, or some results could not be logged.
    """
    check_backend()
    check_race(settings)
    check_nested(settings)
    check_shift_weight(settings)
    check_feature_precision(settings)
    check_vectors(settings)
    check_combine(settings)
    if settings.tracking:
        check_store()
    try:
        cluster = cluster_launcher(settings)
        if cluster is not None:
            settings = for_cluster(settings, reporter)
            if cluster.only_renders:
                return write_jobs(settings, cluster, reporter)
            return _run_study(settings, reporter, cluster)
        if settings.regime == "auto" and backend.gpu_files() and not settings.features:
            return _frozen_then_finetune(settings, reporter)
        return _run_study(settings, reporter)
    except UnknownPartError as error:
        raise explain(error, settings) from None


def _frozen_then_finetune(settings: Settings, reporter: ProgressReporter) -> StudyResult:
    """Run a frozen study, then a finetune study that starts from the best heads of the frozen study.

    Returns:
        Result of the finetune study; the result of the frozen study if the frozen study was interrupted.
    """
    n_finetune = settings.finetune_trials or settings.trials
    reporter.say(f"Two studies: {settings.trials} frozen trials, then {n_finetune} that finetune from what they found.")
    half = None if settings.budget is None else settings.budget / 2
    frozen = _run_study(replace(settings, regime=FROZEN, study=_part_name(settings, FROZEN), budget=half), reporter)
    if frozen.interrupted:
        return frozen
    finetune = replace(
        settings,
        regime=FINETUNE,
        race_divisions=0,
        combine=0,
        study=_part_name(settings, FINETUNE),
        trials=n_finetune,
        budget=half,
        init_from=frozen.study,
        feature_precision=Settings.feature_precision,
    )
    return replace(_run_study(finetune, reporter), before=frozen)


def _part_name(settings: Settings, regime: str) -> str | None:
    return f"{settings.study}-{regime}" if settings.study else None


def _run_study(settings: Settings, reporter: ProgressReporter, cluster: ClusterLauncher | None = None) -> StudyResult:
    """Run one study, or a part of its work, and return its result.

    The workers are started first, so that they import their framework while this process reads the data.

    Args:
        settings: Settings of the study.
        reporter: Receives progress events.
        cluster: Launcher that places the workers on other machines; None for workers of this command.
    """
    part, _, backbone = settings.only.partition(":")
    needs_pool = cluster is None and part in (ALL, TRIALS) and n_workers(settings)
    with WorkerPool(settings) if needs_pool else nullcontext() as pool:
        context = StudyContext.build(settings, reporter)
        check_joinable(context)
        if cluster is not None and settings.dry_run:
            for line in cluster.write(jobs_of(context)):
                reporter.verbatim(line)
            return partial_result(context, [])
        if settings.race_divisions:
            race_images(context)  # before the first trial, since there may be too few cases
        is_logged_by_jobs = cluster is not None and cluster.concludes
        # The record of a recovered trial would not be sent by a command without an uploader.
        session = _open_session(context, reporter, recovers=part != FEATURES and not is_logged_by_jobs)
        remaining = session.begin()
        uploader: UploaderProcess | None = None
        verdict = ""
        try:
            _show_plan(session, remaining)
            later = settings.robustness or settings.nested or settings.race_divisions or part == SUMMARY
            if part != FEATURES and not is_logged_by_jobs and (remaining or session.has_unsent_trials() or later):
                uploader = _start_uploader(session)
            if part == FEATURES:
                compute_features(session, backbone)
            elif part == SUMMARY:
                wait_for_dead_trials(session)
            elif remaining:
                verdict = _search(session, pool, uploader, cluster)
        except (BhsearchError, OSError) as error:  # OSError: the terminal output can no longer be written
            if session.is_refused(error, uploader):
                session.undo(uploader, isinstance(error, LostStorageError))
                raise
            session.fail(error)
        try:
            session.refresh()
        except LostStorageError as error:
            session.fail(error)
        if part in (FEATURES, TRIALS) or verdict == LEFT:
            result = conclude_part(session, uploader)
        else:
            result = conclude(session, uploader)
        session.raise_failure()
        return result


def _open_session(context: StudyContext, reporter: ProgressReporter, *, recovers: bool) -> StudySession:
    """Open a session; if the duration of this step cannot be reported, undo the session."""
    session: StudySession | None = None
    try:
        with reporter.step("opening the study"):
            session = StudySession(context, reporter, recovers=recovers)
    except OSError:
        if session is not None:
            session.undo()
        raise
    return session


def _show_plan(session: StudySession, remaining: int) -> None:
    """Report the plan, and check that the disks have enough free space.

    Raises:
        PlaceError: If a disk is certainly too small.
    """
    context = session.context
    plan = make_plan(context, context.space(session.metadata["backbones"]), n_finished(session.stored_trials()))
    warnings = [*plan.warnings, *disk_space.warnings_of(context, remaining), *notes()]
    session.reporter.plan(replace(plan, warnings=warnings))
    if remaining:
        disk_space.require_space(context, remaining)


def _start_uploader(session: StudySession) -> UploaderProcess | None:
    """Put the record of the study into the outbox, and start the process that logs from the outbox to MLflow.

    Returns None without tracking.
    """
    if session.outbox is None:
        return None
    context = session.context
    record = study_record(context, session.metadata, n_workers(context.settings))
    session.outbox.put_study(record, context.images.arrays())
    is_old = session.criteria.n_before > 0
    return UploaderProcess(session.outbox, session.reporter.say, patient=is_old, sent=session.annotate)


def _search(
    session: StudySession,
    pool: WorkerPool | None,
    uploader: UploaderProcess | None,
    cluster: ClusterLauncher | None,
) -> str:
    """Run trials until a stopping criterion is met or the user interrupts the command, and return the reason."""
    try:
        if cluster is not None:
            with _trials(session):
                verdict = run_jobs(session, cluster)
        elif pool is not None:
            verdict = _in_pool(session, pool, uploader)
        else:
            verdict = _in_this_process(session, uploader)
    except KeyboardInterrupt:
        verdict = STOPPED
    session.is_interrupted = verdict in (STOPPED, TIME)
    if verdict == STOPPED:
        session.reporter.say("Interrupted. Finished trials are kept; repeat the command to continue the study.")
    elif verdict == TIME:
        session.reporter.say(f"Time is up after {session.context.settings.timeout:g} s.")
    return verdict


def _in_pool(session: StudySession, pool: WorkerPool, uploader: UploaderProcess | None) -> str:
    folder = session.outbox.folder.resolve() if session.outbox is not None else None
    task = WorkerTask(session.context, session.metadata, folder, session.criteria)
    session.examples = pool.prepare(task, session.reporter)
    _show_costs(session)
    _wait_for(uploader, session.reporter)
    events = WorkerEvents(session.trial_ended, session.worker_died, session.recover, session.trial_rescued)
    with _trials(session):
        return pool.work(events, session.criteria.seconds)


def _in_this_process(session: StudySession, uploader: UploaderProcess | None) -> str:
    objective = make_objective(session.context, session.metadata["started_from"], session.reporter)
    session.examples = objective.examples()
    stored_costs(session.context, session.metadata, session.engine, objective, session.reporter)
    _show_costs(session)
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


def _show_costs(session: StudySession) -> None:
    """Report the minutes that features are expected to take, before any features are computed."""
    rows = cost_rows(session.context, session.metadata, session.engine, session.stored_trials())
    if rows:
        session.reporter.plan(StudyPlan(rows))


def _trials(session: StudySession) -> AbstractContextManager[None]:
    trials = session.stored_trials()
    return session.reporter.trials(n_finished(trials), session.context.settings.trials, best_of(trials))


def _wait_for(uploader: UploaderProcess | None, reporter: ProgressReporter) -> None:
    if uploader is not None:
        with reporter.step("opening MLflow"):
            uploader.wait_until_ready()


class _InProcessCallbacks(TrialCallbacks):
    """Callbacks that pass the events of trials in this process to the session."""

    def __init__(self, session: StudySession, interrupts: Interrupts) -> None:
        self._session, self._interrupts = session, interrupts
        self._recovered = time.monotonic()

    @property
    def stopping(self) -> bool:
        """Whether the user has interrupted the command, so that no further trial may start."""
        return self._interrupts.asked

    def interruptible(self) -> AbstractContextManager[None]:
        """Return a context manager in which an interrupt takes effect immediately."""
        return self._interrupts.allowed()

    def started(self, trial: Trial) -> None:
        """Report the start of a trial."""
        self._session.trial_started(trial)

    def ended(self, number: int, probability: Float32Array | None) -> None:
        """Store the predictions of a trial that has ended, and report the trial."""
        self._session.trial_ended(number, probability)

    def rescued(self, trial: Trial, probability: Float32Array) -> None:
        """Keep a complete trial in memory because the engine could not store it."""
        self._session.trial_rescued(trial, probability)

    def exhausted(self, sentence: str) -> None:
        """Report that the engine has no more parameters to propose."""
        self._session.reporter.say(sentence)

    def waiting(self) -> None:
        """End trials of dead processes, every `_RECOVERY_SECONDS`, while other commands run the last trials."""
        if time.monotonic() > self._recovered + _RECOVERY_SECONDS:
            self._recovered = time.monotonic()
            self._session.recover()
