"""Let a cluster's launcher place the workers of a study, and follow the study until they have ended."""

from __future__ import annotations

import hashlib
import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from bhsearch.config import Settings, portable
from bhsearch.engines.base import Trial
from bhsearch.errors import RunError
from bhsearch.states import RUNNING
from bhsearch.study.context import FINETUNE, StudyContext, check_choices
from bhsearch.study.events import ProgressReporter
from bhsearch.study.outcome.result import StudyResult
from bhsearch.study.session import StudySession, best_of, n_finished
from bhsearch.study.workers.launchers.jobs import (
    ClusterLauncher,
    JobsLeftError,
    Placement,
    StudyJobs,
    job_variables,
    options_of,
)
from bhsearch.study.workers.pool import n_workers
from bhsearch.study.workers.worker import DONE, STOPPED, TIME, is_over
from bhsearch.text import plural

_LOOK_SECONDS = 1.0
_SETTLE_SECONDS = 10.0  # interval of searches for trials of dead workers
_FOLDER = "jobs"  # of scripts and logs, in the working directory
LEFT = "left"  # verdict of a search whose command does not wait for it


def jobs_of(context: StudyContext) -> StudyJobs:
    """Return the jobs of a study."""
    has_features = context.regime != FINETUNE and not context.index.vectors
    encoders = [each.name for each in context.found.backbones] if has_features else []
    values = portable(context.settings) | {"study": context.study, "regime": context.regime}
    return _jobs(context.settings, context.study, encoders, values)


def write_jobs(settings: Settings, launcher: ClusterLauncher, reporter: ProgressReporter) -> StudyResult:
    """Write the files of the jobs of a study whose data need not be on this machine.

    Args:
        settings: Settings with the name of the study; their paths are those of the machines of the cluster.
        launcher: Launcher that only renders.
        reporter: Receives the lines that tell how to submit the jobs.

    Returns:
        Result without trials.

    Raises:
        SettingsError: If a setting contradicts another one, or the files cannot be written.
    """
    assert settings.study is not None  # `cluster_launcher` requires it
    check_choices(settings)
    for line in launcher.write(_jobs(settings, settings.study, [], portable(settings, elsewhere=True))):
        reporter.verbatim(line)
    return StudyResult(settings.study, settings.data or "", [], [], wanted=settings.trials, partial=True)


def _jobs(settings: Settings, study: str, encoders: list[str], values: dict[str, Any]) -> StudyJobs:
    options = []
    for name in ("trial_timeout", "max_worker_memory", "timeout"):
        value = getattr(settings, name)
        if value is not None:
            options += [f"--{name.replace('_', '-')}", _number(value)]
    if settings.budget is not None:
        # A worker command multiplies it by the number of its own processes, one for each of its GPUs.
        options += ["--budget", _number(settings.budget * n_workers(settings))]
    if not settings.tracking:
        options.append("--no-tracking")
    # The job that creates the study needs it. If the command has created the study, its points are the same.
    warm = {"warm_start_from": list(settings.warm_start_from)} if settings.warm_start_from else {}
    return StudyJobs(
        study=study,
        n_workers=n_workers(settings),
        encoders=encoders,
        settings=values | warm,
        worker_options=options,
        options=options_of(settings.launcher_option),
        variables=job_variables(settings.storage),
        folder=Path.cwd() / _FOLDER / _folder_name(study),
        waits=settings.wait,
    )


def _number(value: float) -> str:
    """Return the shortest text that is read as the same number."""
    return repr(float(value)).removesuffix(".0")


def _folder_name(study: str) -> str:
    """Return the name of a study as the name of one folder, which scripts can contain without quotes."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", study).lstrip(".-")
    return name if name == study else f"{name}-{hashlib.sha256(study.encode()).hexdigest()[:8]}".lstrip("-")


def run_jobs(session: StudySession, launcher: ClusterLauncher) -> str:
    """Submit the jobs of a study, and report its trials until all jobs have ended.

    Args:
        session: Session of the study, which runs no trials itself.
        launcher: Launcher that places the workers.

    Returns:
        Reason of the end: `DONE`, `TIME`, `STOPPED`, or `LEFT` with `--no-wait`.

    Raises:
        InputError: If a worker refused its settings or its data.
        RunError: If the jobs cannot be submitted, or ended without finishing the study. `session.has_jobs` then says
            whether jobs of the study may be left.
    """
    try:
        placed = launcher.submit(jobs_of(session.context))
    except JobsLeftError:
        session.has_jobs = True
        raise
    session.has_jobs = True
    with closing(placed) as placement:
        try:
            if not session.context.settings.wait:
                _say(session, placement)
                return LEFT
            return _follow(session, placement)
        except BaseException as error:
            sentence = placement.interrupt()
            session.has_jobs = placement.n_running > 0
            session.reporter.say(sentence)
            if isinstance(error, KeyboardInterrupt):
                return STOPPED
            raise


def _follow(session: StudySession, placement: Placement) -> str:
    """Report trials and messages until all jobs have ended.

    This process does not watch `--timeout`. Each worker does, from its own start, and ends after its running trial.
    """
    began = time.monotonic()
    seen = {trial.number: trial.state for trial in session.stored_trials()}
    settled = time.monotonic()
    while True:
        n_running = placement.n_running
        _say(session, placement)
        # Again, because `look` may have replaced the last job, but before the trials are read.
        n_running = n_running or placement.n_running
        if time.monotonic() > settled + _SETTLE_SECONDS:
            session.recover()
            settled = time.monotonic()
        trials = session.stored_trials()
        for trial in trials:
            _report(session, trials, trial, seen)
        if not n_running:
            if is_over(trials, session.criteria):
                return DONE
            if time.monotonic() > began + session.criteria.seconds:
                return TIME
            raise RunError(
                f"All jobs have ended, but only {n_finished(trials)} of {plural(session.criteria.trials, 'trial')} are "
                f"finished. Read the logs in {jobs_of(session.context).folder}, and repeat the command to continue the "
                "study."
            )
        time.sleep(_LOOK_SECONDS)


def _report(session: StudySession, trials: list[Trial], trial: Trial, seen: dict[int, str]) -> None:
    before = seen.get(trial.number)
    if trial.state == before:
        return
    seen[trial.number] = trial.state
    if before is None:
        session.reporter.began(trial.number)
    if trial.state != RUNNING:
        session.reporter.trial(trial, best_of(trials))


def _say(session: StudySession, placement: Placement) -> None:
    for line in placement.look():
        session.reporter.say(line)
