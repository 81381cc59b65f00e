"""The end of a session: collect the predictions, rank the trials, and log the summary of the study to MLflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bhsearch.engines.base import Trial
from bhsearch.engines.optuna.importances import importance_spread
from bhsearch.errors import BhsearchError, LostStorageError, RunError, StudyError
from bhsearch.evaluation.predictions import Predictions
from bhsearch.runtime.processes import is_here
from bhsearch.states import RUNNING
from bhsearch.study.context import FINETUNE, StudyContext
from bhsearch.study.outcome.nested import nested_score
from bhsearch.study.outcome.race import race
from bhsearch.study.outcome.ranking import correct, rank
from bhsearch.study.outcome.result import StudyResult
from bhsearch.study.outcome.robustness import FINETUNED, in_the_running, robustness_of
from bhsearch.study.outcome.selection import compare_with_default, proposed_of
from bhsearch.study.outcome.summary import summary_record
from bhsearch.study.resume.past_predictions import experiment_of, mlflow_predictions, outbox_predictions
from bhsearch.study.session import StudySession
from bhsearch.study.workers.worker import exceeds_budget, stagnated
from bhsearch.text import plural, verb
from bhsearch.tracking import links
from bhsearch.tracking.upload.client import UploaderProcess
from bhsearch.tracking.upload.outbox import Outbox, all_outboxes, outbox_root

_T = TypeVar("_T")


def conclude(session: StudySession, uploader: UploaderProcess | None) -> StudyResult:
    """Rank the trials, log the summary, wait until all trials are in MLflow, and return the result.

    Args:
        session: Session whose trials have ended.
        uploader: Process that logs to MLflow; None without tracking or if there is nothing to log.

    Raises:
        RunError: If some results could not be logged.
    """
    trials = session.trials()
    with session.reporter.step("reading predictions"):
        _collect_predictions(session, trials)
        earlier, n_earlier = _earlier_predictions(session)
    raced = _race(session, trials)
    with session.reporter.step("comparing trials"):
        result = _rank(session, trials, earlier, n_earlier, raced)
    result = _with_nested(session, _with_robustness(session, result))
    if uploader is not None and session.outbox is not None:
        _put_summary(session, session.outbox, result, raced)
        with session.reporter.step("logging to MLflow") as progress:
            uploader.finish(progress)
    elif session.outbox is not None:
        session.outbox.close()
    for trial in trials:  # the run ids of the last trials are known only after the upload
        if trial.number in session.run_ids:
            trial.notes["mlflow_run"] = session.run_ids[trial.number]
    return replace(result, links=_links(session, uploader))


def conclude_part(session: StudySession, uploader: UploaderProcess | None) -> StudyResult:
    """Wait until the trials of a command that did only a part of the work are in MLflow, and return its result.

    Args:
        session: Session whose trials have ended.
        uploader: Process that logs to MLflow; None without tracking or if there is nothing to log.

    Raises:
        RunError: If some results could not be logged.
    """
    if uploader is not None:
        with session.reporter.step("logging to MLflow") as progress:
            uploader.finish(progress)
    if session.outbox is not None:  # without a summary, the uploader leaves it open
        session.outbox.close()
    return partial_result(session.context, session.trials(), interrupted=session.is_interrupted)


def partial_result(context: StudyContext, trials: list[Trial], *, interrupted: bool = False) -> StudyResult:
    """Return the result of a command that did only a part of the work, without a ranking.

    Args:
        context: Context of the study.
        trials: Trials of the study.
        interrupted: Whether Ctrl-C or the time limit ended the command early.
    """
    return StudyResult(
        study=context.study,
        data=context.index.name,
        ranking=[],
        records=trials,
        wanted=context.settings.trials,
        tracked=context.settings.tracking,
        interrupted=interrupted,
        partial=True,
    )


def _race(session: StudySession, trials: list[Trial]) -> dict[int, Predictions]:
    """Race the best trials, unless the search was interrupted or failed; a failed race fails the session."""
    if session.is_interrupted or session.failure is not None:
        return {}
    try:
        return race(session.context, trials, session.reporter)
    except BhsearchError as error:
        session.fail(error)
        return {}


def _rank(
    session: StudySession,
    trials: list[Trial],
    earlier: list[Predictions],
    n_earlier: int,
    raced: dict[int, Predictions],
) -> StudyResult:
    context, settings = session.context, session.context.settings
    ranking = rank(trials, session.predictions, context.task, raced)
    space, chosen = context.space(session.metadata["backbones"]), proposed_of(ranking)
    corrected, uncorrected = correct(trials, session.predictions, context.task, earlier, n_earlier)
    return StudyResult(
        study=context.study,
        data=context.index.name,
        ranking=ranking,
        records=trials,
        wanted=settings.trials,
        note=context.note,
        invalid=context.split.leaks,
        tracked=settings.tracking,
        interrupted=session.is_interrupted,
        corrected=corrected,
        uncorrected=uncorrected,
        stagnation=settings.patience if stagnated(trials, session.criteria.stagnation) else None,
        budget=settings.budget if exceeds_budget(trials, session.criteria.budget_seconds) else None,
        findings=context.audit.summary_lines(),
        proposed_predictions=None if chosen is None else session.predictions.get(chosen.trial.number),
        default=compare_with_default(ranking, session.predictions, space, context.task),
        shift_weight=settings.score_weight_shift,
        joints={
            name: [member.name for member in backbone.members]
            for name, backbone in context.backbones.items()
            if backbone.members
        },
    )


def _with_robustness(session: StudySession, result: StudyResult) -> StudyResult:
    """Add the robustness of the best trials, or the reason why it was not computed, if it was requested."""
    context = session.context
    if not context.settings.robustness or result.best is None:
        return result
    if context.regime == FINETUNE:
        return replace(result, no_robustness=FINETUNED)
    trials = in_the_running(result.ranking)
    found, reason = _after_search(session, result, lambda: robustness_of(context, trials, session.reporter))
    return replace(result, robustness=found or {}, no_robustness=reason)


def _with_nested(session: StudySession, result: StudyResult) -> StudyResult:
    """Add the score of the nested search, or the reason why it was not computed, if it was requested."""
    context = session.context
    if not context.settings.nested or result.best is None or context.regime == FINETUNE:
        return result
    space, n_trials = context.space(session.metadata["backbones"]), len(result.ranking)
    found, reason = _after_search(session, result, lambda: nested_score(context, space, n_trials, session.reporter))
    return replace(result, nested=found, no_nested=reason)


def _after_search(session: StudySession, result: StudyResult, compute: Callable[[], _T]) -> tuple[_T | None, str]:
    """Return what a function computes, or None and the reason why it was not computed."""
    if result.interrupted or session.failure is not None:
        return None, "the search ended early"
    try:
        return compute(), ""
    except KeyboardInterrupt:
        return None, "it was interrupted"
    except (BhsearchError, OSError) as error:  # the result of the search must not be lost
        return None, str(error).rstrip(".")


def _put_summary(session: StudySession, outbox: Outbox, result: StudyResult, raced: dict[int, Predictions]) -> None:
    is_lost = isinstance(session.failure, LostStorageError)
    importances = {} if is_lost else session.engine.importances()
    spread: dict[str, float] = {}
    if importances:
        space = session.context.space(session.metadata["backbones"])
        with session.reporter.step("weighing parameters") as progress:
            spread = importance_spread(result.records, space, progress)
    record = summary_record(
        result,
        importances,
        spread,
        policies=list(session.examples),
        settled=_settled(outbox, result.records),
        lost=str(session.failure) if is_lost else "",
    )
    record["race"] = list(raced)
    examples = session.examples
    arrays: dict[str, Any] = {"augmentation": np.stack([*examples.values()])} if examples else {}
    if raced:
        arrays["race_fold"] = next(iter(raced.values())).fold
        arrays["race_probability"] = np.stack([each.out_of_fold for each in raced.values()])
    outbox.put_summary(record, arrays)


def _collect_predictions(session: StudySession, trials: list[Trial]) -> None:
    """Add the predictions of earlier sessions and of other commands to the session, as far as they can be read."""
    missing = [trial for trial in trials if trial.value is not None and trial.number not in session.predictions]
    if not missing or not session.context.settings.tracking:
        return
    uid = session.metadata["uid"]
    waiting = outbox_predictions(all_outboxes(outbox_root(), uid), session.context.images)
    stored = _stored_predictions(session, uid)
    session.predictions = waiting | (stored or {}) | session.predictions
    if stored is None:
        return
    n_lost = sum(trial.number not in session.predictions for trial in missing)
    if n_lost:
        session.reporter.say(
            f"{plural(n_lost, 'finished trial')} {verb(n_lost, 'is', 'are')} not in this MLflow store; such "
            "trials count, but have no interval."
        )


def _stored_predictions(session: StudySession, uid: str) -> dict[int, Predictions] | None:
    """Return the predictions in MLflow by trial number; None if MLflow cannot be read.

    In this case the error is recorded, and raised at the end of the session.
    """
    try:
        return mlflow_predictions(session.context.index.name, uid)
    except (StudyError, RunError) as error:  # an empty dict would make the trials look missing
        session.fail(error)
        return None


def _earlier_predictions(session: StudySession) -> tuple[list[Predictions], int]:
    """Return the predictions of the frozen study that this study was started from.

    The corrected score must include them, because the initial heads were selected among the trials of that study.

    Returns:
        The predictions that could be read, and the minimum number that the correction requires.
    """
    origin = session.metadata["started_from"]
    if not origin:
        return [], 0
    found = _stored_predictions(session, origin["uid"]) if session.context.settings.tracking else {}
    return list((found or {}).values()), origin["complete"]


def _settled(outbox: Outbox, trials: Sequence[Trial]) -> list[int]:
    """Return the numbers of trials that ended on this machine and that no other command has still to log."""
    here = [trial for trial in trials if is_here(trial.owner)]
    folders = {Path(trial.notes["outbox"]) for trial in here if "outbox" in trial.notes}
    folders |= {box.folder.resolve() for box in outbox.others()}
    others = folders - {outbox.folder.resolve()}
    waiting = {number for folder in others for number in Outbox(folder, make=False).holds()}
    return [trial.number for trial in here if trial.state != RUNNING and trial.number not in waiting]


def _links(session: StudySession, uploader: UploaderProcess | None) -> tuple[str, ...]:
    """Return the URLs of two MLflow views of the trials: a table, and parallel coordinates; empty if unavailable."""
    experiment_id = ""
    if uploader is not None:
        experiment_id = uploader.experiment_id
    elif session.context.settings.tracking:  # everything was logged before
        with suppress(Exception):  # a missing link must not fail the session
            experiment_id = experiment_of(session.context.index.name)
    return (links.trials_url(experiment_id), links.parallel_url(experiment_id)) if experiment_id else ()
