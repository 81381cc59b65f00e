"""Recover trials whose process died between their start and their end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from bhsearch.engines.base import MOST_RETRIES, Engine, Trial, TrialAlreadyEnded
from bhsearch.errors import LostStorageError
from bhsearch.runtime.processes import is_alive
from bhsearch.states import COMPLETE, FAILED, PRUNED, RUNNING
from bhsearch.study.payloads import failed_record
from bhsearch.tracking.records import TrialRecord
from bhsearch.tracking.upload.outbox import Outbox

DIED = "its process died"
Reason = Callable[[Trial], tuple[str, bool]]  # why a trial died, and whether to retry it


def process_died(trial: Trial) -> tuple[str, bool]:  # noqa: ARG001
    """Return the reason for a dead trial about which nothing more is known."""
    return DIED, True


def recover_dead_trials(
    engine: Engine, own: Outbox | None, others: Iterable[Outbox], reason: Reason = process_died
) -> list[Trial]:
    """End trials whose process is gone: as their record in an outbox says, otherwise as failed.

    Hold the lock of the study: concurrent recovery would record the same failure twice.

    Args:
        engine: Engine of the study.
        own: Outbox of this command, for the records of failed trials; None without tracking.
        others: Outboxes of commands that are gone.
        reason: Returns why a trial died, and whether to retry it.

    Returns:
        The trials that were ended.
    """
    boxes = [box for box in (own, *others) if box is not None]
    held = {number: (box, record) for box in boxes for number, record in box.held().items()}
    stale = engine.stale()
    settled = []
    for trial in engine.trials():
        dead = trial.state == RUNNING and (trial.number in stale or not is_alive(trial.owner))
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
    """End a trial in the engine as its record in the outbox says, and release the record."""
    try:
        replay_result(engine, record)
    except TrialAlreadyEnded:
        box.drop(trial.number)
    else:
        box.release(trial.number)


def replay_result(engine: Engine, record: TrialRecord) -> None:
    """End a trial as its record has it.

    Raises:
        TrialAlreadyEnded: If it was ended in another way before.
    """
    if record["state"] == COMPLETE:
        engine.complete(record["number"], record["score"], record["seconds"], record.get("interval"))
    elif record["state"] == PRUNED:
        engine.prune(record["number"], record["seconds"])
    else:
        engine.fail(record["number"], record["reason"])


@contextmanager
def via_outbox(outbox: Outbox | None, number: int, record: TrialRecord, arrays: dict[str, Any]) -> Iterator[None]:
    """Hold a trial's record in the outbox while the engine stores the end of the trial, and release it afterwards."""
    if outbox is None:
        yield
        return
    outbox.put(number, record, arrays)
    try:
        yield
    except TrialAlreadyEnded:
        outbox.drop(number)
        raise
    except LostStorageError:  # the engine cannot store it any more, but MLflow can
        outbox.release(number)
        raise
    outbox.release(number)


def next_retry(trials: Sequence[Trial], names: Iterable[str]) -> Trial | None:
    """Return a trial whose process died and that must be retried; None if there is none.

    Args:
        trials: All trials of the study.
        names: Names of the space's parameters; a trial that died before it had them all is not retried.
    """
    again = {trial.notes.get("retry_of") for trial in trials}
    wanted = set(names)
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
