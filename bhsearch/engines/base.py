"""What a study asks of an engine, and what it gets back: plain records, so that no other module knows the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from bhsearch.errors import RunError
from bhsearch.objectives.base import IntermediateValue
from bhsearch.objectives.space import Params
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
            `retry_of` (a trial's number) and `attempt` (1 or 2) where it runs again what another died in, `auc_low` and
            `auc_high` of one that is complete.
    """

    number: int
    state: str
    params: Params
    value: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def owner(self) -> dict[str, Any]:
        """The process that runs it, as `this_process` names it; empty where none is known."""
        owner: dict[str, Any] = self.notes.get("owner", {})
        return owner

    @property
    def counts(self) -> bool:
        """Whether it counts for `--trials`."""
        return self.state in (COMPLETE, PRUNED)


INTERRUPTED = "interrupted"  # the reason of a trial that someone ended who also ended its search
MOST_RETRIES = 2  # of a trial whose process died


def is_ignored_on_resume(trial: Trial) -> bool:
    """Whether what comes next must be as if this trial had not been: it was interrupted, or will be run again.

    Any other failed trial shows, or the same point would come again for ever.
    """
    dead = trial.notes.get("dead", False) and trial.notes.get("attempt", 0) < MOST_RETRIES
    return trial.notes.get("reason") == INTERRUPTED or dead


def result_attributes(seconds: float, ends: tuple[float, float] | None) -> dict[str, float]:
    """What is kept beside the score of a complete trial."""
    interval = {} if ends is None else {"auc_low": round(ends[0], 6), "auc_high": round(ends[1], 6)}
    return {"seconds": round(seconds, 4), **interval}


class TrialAlreadyEnded(Exception):  # noqa: N818  # no error: a decision
    """A trial that should be ended was ended by another process, in another way."""


class SearchExhausted(RunError):  # noqa: N818  # named for what happened
    """An engine has no more points to propose."""


class Engine(Protocol):
    """One study in one engine. Ending a trial raises `TrialAlreadyEnded` if it was ended in another way before."""

    @property
    def beat_seconds(self) -> float | None:
        """How often `beat` wants to be called; None for never."""

    def report(self, number: int, report: IntermediateValue) -> bool:
        """Say how a running trial stands. Returns whether it should be pruned."""

    def prune(self, number: int, seconds: float) -> None:
        """End a trial that was pruned."""

    def ask(self, point: Params | None = None, notes: dict[str, Any] | None = None) -> Trial:
        """Start a trial.

        Args:
            point: Where; None where the engine is to choose.
            notes: Kept with it from its first moment: whoever sees the trial sees them.

        Raises:
            Exhausted: If the engine has no point left to choose.
        """

    def complete(self, number: int, score: float, seconds: float, ends: tuple[float, float] | None = None) -> None:
        """End a trial with its score, and the ends of its interval where they are known."""

    def annotate(self, number: int, notes: dict[str, str]) -> None:
        """Keep something for people beside a trial that has ended, where people look at the engine's storage."""

    def fail(self, number: int, reason: str, dead: bool = False) -> None:
        """End a trial without a score; `dead` where its process died, so that it will be run again."""

    def beat(self, number: int) -> None:
        """Say that a running trial's process is alive, where other hosts can read it."""

    def stale(self) -> set[int]:
        """Running trials whose process has not said for long that it is alive."""

    def trials(self) -> list[Trial]:
        """All trials, by number."""

    def importances(self) -> dict[str, float]:
        """Share of the score's variation that each parameter explains, largest first; empty where unknown."""

    def delete(self) -> None:
        """Delete the study."""
