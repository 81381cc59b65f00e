"""What a study asks of an engine, and what it gets back: plain records, so that no other module knows the engine."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import psutil

from bhsearch.search.space import Params
from bhsearch.states import COMPLETE, PRUNED


@dataclass(frozen=True)
class Trial:
    """A trial as the engine's storage holds it.

    Attributes:
        number: 0, 1, 2, ... within the study.
        state: `COMPLETE`, `PRUNED`, `FAIL` or `RUNNING`.
        params: The point of the space.
        value: The score; None unless complete.
        notes: What was kept beside it: `reason` of a failure, `seconds`, `owner`, `dead` where its process died,
            `retry_of` (a trial's number) and `attempt` (1 or 2) where it runs again what another died in.
    """

    number: int
    state: str
    params: Params
    value: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether it counts for `--trials`."""
        return self.state in (COMPLETE, PRUNED)


INTERRUPTED = "interrupted"  # the reason of a trial that someone ended who also ended its search
MOST_RETRIES = 2  # of a trial whose process died


def leaves_no_trace(trial: Trial) -> bool:
    """Whether what comes next must be as if this trial had not been: it was interrupted, or will be run again.

    Any other failed trial shows, or the same point would come again for ever.
    """
    dead = trial.notes.get("dead", False) and trial.notes.get("attempt", 0) < MOST_RETRIES
    return trial.notes.get("reason") == INTERRUPTED or dead


@dataclass(frozen=True)
class Report:
    """How a trial stands on its way.

    Attributes:
        step: Shares of the folds' schedules that are done, over all folds, from 0; the same for every trial.
        mean: Mean score over the folds so far, the one in training included.
        fold: Score of the fold that has just ended; None inside a fold.
    """

    step: int
    mean: float
    fold: float | None


Watch = Callable[[Report], None]  # told how a trial stands; raises `Pruned` to end it


class Pruned(Exception):  # noqa: N818  # no error: a decision
    """A trial is not worth going on with.

    Attributes:
        curves: What was seen of it, as in `Outcome`.
        seconds: What it took.
    """

    def __init__(self) -> None:
        super().__init__("pruned")
        self.curves: dict[str, list[float]] = {}
        self.seconds = 0.0


class Engine(Protocol):
    """One study in one engine."""

    def report(self, number: int, report: Report) -> bool:
        """Say how a running trial stands. Returns whether it should be pruned."""

    def prune(self, number: int, seconds: float) -> None:
        """End a trial that was pruned."""

    def ask(self, point: Params | None = None, notes: dict[str, Any] | None = None) -> Trial:
        """Start a trial.

        Args:
            point: Where; None where the engine is to choose.
            notes: Kept with it from its first moment: whoever sees the trial sees them.
        """

    def complete(self, number: int, score: float, seconds: float) -> None:
        """End a trial with its score."""

    def fail(self, number: int, reason: str) -> None:
        """End a trial without a score."""

    def trials(self) -> list[Trial]:
        """All trials, by number."""

    def importances(self) -> dict[str, float]:
        """Share of the score's variation that each parameter explains, largest first; empty where unknown."""

    def delete(self) -> None:
        """Delete the study."""


def owner() -> dict[str, Any]:
    """Which process runs a trial; a process number alone may be used again."""
    return {"host": platform.node(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def is_alive(process: dict[str, Any]) -> bool:
    """Whether the owner of a trial still runs. A process on another host is taken to be alive."""
    if process.get("host") != platform.node():
        return bool(process)
    try:
        return bool(abs(psutil.Process(process["pid"]).create_time() - process["started"]) < 1.0)
    except psutil.NoSuchProcess:
        return False
