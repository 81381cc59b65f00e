"""What a process left behind that died between a trial's start and its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from bhsearch.engines.base import MOST_RETRIES, Engine, Trial, TrialAlreadyEnded
from bhsearch.errors import LostStorageError
from bhsearch.runtime.processes import is_alive
from bhsearch.states import COMPLETE, FAILED, PRUNED, RUNNING
from bhsearch.study.payloads import failed_record
from bhsearch.tracking.upload.outbox import Outbox

DIED = "its process died"
Reason = Callable[[Trial], tuple[str, bool]]  # of a dead trial: a sentence, and whether to run it again


def process_died(trial: Trial) -> tuple[str, bool]:  # noqa: ARG001
    """The reason where nothing more is known."""
    return DIED, True


def recover_dead_trials(
    engine: Engine, own: Outbox | None, others: Iterable[Outbox], reason: Reason = process_died
) -> list[Trial]:
    """End trials whose process is gone: as it meant to, where its record lies in an outbox, else as failed.

    Call it alone on this machine: two that settle at once would both record the same death.

    Args:
        engine: Of the study.
        own: Outbox of this command, for the records of deaths; None without tracking.
        others: Outboxes of commands that are gone.
        reason: Says what a trial died of.

    Returns:
        The trials that were settled.
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


def _finish(engine: Engine, trial: Trial, box: Outbox, record: dict[str, Any]) -> None:
    """Tell the engine what a record in the outbox says, and let it be sent."""
    try:
        replay_result(engine, record)
    except TrialAlreadyEnded:
        box.drop(trial.number)
    else:
        box.release(trial.number)


def replay_result(engine: Engine, record: dict[str, Any]) -> None:
    """End a trial as its record has it.

    Raises:
        Overtaken: If it was ended in another way before.
    """
    if record["state"] == COMPLETE:
        engine.complete(record["number"], record["score"], record["seconds"], record.get("interval"))
    elif record["state"] == PRUNED:
        engine.prune(record["number"], record["seconds"])
    else:
        engine.fail(record["number"], record["reason"])


@contextmanager
def via_outbox(outbox: Outbox | None, number: int, record: dict[str, Any], arrays: dict[str, Any]) -> Iterator[None]:
    """Around telling the engine: the outbox holds the trial before, and lets it be sent after."""
    if outbox is None:
        yield
        return
    outbox.put(number, record, arrays)
    try:
        yield
    except TrialAlreadyEnded:
        outbox.drop(number)
        raise
    except LostStorageError:  # nobody can tell the engine any more; what is finished is sent all the same
        outbox.release(number)
        raise
    outbox.release(number)


def next_retry(trials: Sequence[Trial], names: Iterable[str]) -> Trial | None:
    """A trial whose process died and that is to be run again, or None.

    Args:
        trials: All of the study.
        names: Of the space's parameters; a trial that died before it had them all is not run again.
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
