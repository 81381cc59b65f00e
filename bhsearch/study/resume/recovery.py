"""Recover dead trials: trials whose process died before it could end them in the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from bhsearch.engines.base import MOST_RETRIES, Engine, Trial, TrialAlreadyEnded
from bhsearch.errors import LostStorageError
from bhsearch.objectives.base import known_milliseconds
from bhsearch.runtime.processes import is_alive
from bhsearch.states import COMPLETE, FAILED, PRUNED, RUNNING
from bhsearch.study.payloads import failed_record
from bhsearch.tracking.records import TrialRecord
from bhsearch.tracking.upload.outbox import Outbox

DIED = "its process died"
Reason = Callable[[Trial], tuple[str, bool]]  # returns the reason of a dead trial's failure, and whether to retry it


def process_died(trial: Trial) -> tuple[str, bool]:  # noqa: ARG001
    """Return the default reason of a dead trial's failure, and that the trial is to be retried."""
    return DIED, True


def recover_dead_trials(
    engine: Engine, own: Outbox | None, others: Iterable[Outbox], reason: Reason = process_died
) -> list[Trial]:
    """End the running trials of dead processes.

    A trial with a record in an outbox is ended with the result in the record; any other trial is marked failed. The
    caller must hold the lock of the study, because two concurrent recoveries would record the same failure twice.

    Args:
        engine: Engine of the study.
        own: Outbox of this command, for the records of failed trials; None without tracking.
        others: Outboxes of dead commands.
        reason: Returns the reason of a dead trial's failure, and whether to retry the trial.

    Returns:
        The trials that were ended.
    """
    boxes = [box for box in (own, *others) if box is not None]
    held = {number: (box, record) for box in boxes for number, record in box.held().items()}
    stale = engine.stale()
    settled = []
    for trial in engine.trials():
        begun = trial.state == RUNNING and not trial.notes.get("waiting", False)
        dead = begun and (trial.number in stale or not is_alive(trial.owner))
        if trial.number in held and (dead or trial.state != RUNNING):
            box, record = held[trial.number]
            _finish(engine, trial, box, record)
        elif dead:
            sentence, again = reason(trial)
            record = failed_record(trial, sentence)
            with suppress(TrialAlreadyEnded), via_outbox(own, trial.number, record, {}):
                engine.fail(trial.number, sentence, dead=again)
        if dead:
            settled.append(trial)
    return settled


def _finish(engine: Engine, trial: Trial, box: Outbox, record: TrialRecord) -> None:
    """End a trial in the engine with the result in its record, and release the record in the outbox for upload."""
    try:
        replay_result(engine, record)
    except TrialAlreadyEnded:
        box.drop(trial.number)
    else:
        box.release(trial.number)


def replay_result(engine: Engine, record: TrialRecord) -> None:
    """End a trial in the engine with the result in its record.

    Raises:
        TrialAlreadyEnded: If the trial has ended with another state or score.
    """
    if record["state"] == COMPLETE:
        milliseconds = known_milliseconds(record.get("cost", {}))
        engine.complete(record["number"], record["score"], record["seconds"], record.get("interval"), milliseconds)
    elif record["state"] == PRUNED:
        engine.prune(record["number"], record["seconds"])
    else:
        engine.fail(record["number"], record["reason"])


@contextmanager
def via_outbox(outbox: Outbox | None, number: int, record: TrialRecord, arrays: dict[str, Any]) -> Iterator[None]:
    """Put a trial's record into the outbox, run the block that ends the trial in the engine, then release the record.

    A record is uploaded only after its release. If the process is killed in the block, `recover_dead_trials` ends the
    trial with the result in the record.
    """
    if outbox is None:
        yield
        return
    outbox.put(number, record, arrays)
    try:
        yield
    except TrialAlreadyEnded:
        outbox.drop(number)
        raise
    except LostStorageError:  # the engine can no longer store the result, but MLflow can
        outbox.release(number)
        raise
    outbox.release(number)


def next_retry(trials: Sequence[Trial], names: Iterable[str]) -> Trial | None:
    """Return the first dead trial that must be retried; None if no trial must be retried.

    Args:
        trials: All trials of the study.
        names: Names of all parameters of the space; a trial whose process died before all parameters were sampled is
            not retried, and is no retry itself.
    """
    wanted = set(names)
    again = {trial.notes.get("retry_of") for trial in trials if trial.state != FAILED or wanted <= set(trial.params)}
    for trial in trials:
        if (
            trial.state == FAILED
            and trial.notes.get("dead", False)
            and trial.notes.get("attempt", 0) < MOST_RETRIES
            and trial.number not in again
            and wanted <= set(trial.params)
        ):
            return trial
    return None
