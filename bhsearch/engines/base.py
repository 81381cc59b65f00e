"""The interface of engines: records of trials, and the protocols that every engine implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bhsearch.errors import RunError
from bhsearch.objectives.base import IntermediateValue
from bhsearch.objectives.space import Parameter, Params
from bhsearch.plugins import PluginSource
from bhsearch.states import COMPLETE, PRUNED


@dataclass(frozen=True)
class Trial:
    """A trial as it is stored.

    Attributes:
        number: Number within the study, from 0.
        state: `COMPLETE`, `PRUNED`, `FAIL` or `RUNNING`.
        params: Value of each parameter.
        value: Score; None unless the trial is complete.
        notes: Further facts: `owner`, the process that runs the trial; `seconds`, its duration; `reason` and `dead` of
            a failed trial (`dead` if its process died); `retry_of` (number of the retried trial) and `attempt` (1 or
            2) of a retry; `auc_low` and `auc_high`, the interval of a complete trial's score.
    """

    number: int
    state: str
    params: Params
    value: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def owner(self) -> dict[str, Any]:
        """The process that runs the trial, as `this_process` returns it; empty if unknown."""
        owner: dict[str, Any] = self.notes.get("owner", {})
        return owner

    @property
    def counts(self) -> bool:
        """Whether the trial counts towards `--trials`."""
        return self.state in (COMPLETE, PRUNED)


INTERRUPTED = "interrupted"  # reason of a trial that ended because its search was interrupted
MOST_RETRIES = 2  # retries of a trial whose process died


def is_ignored_on_resume(trial: Trial) -> bool:
    """Return whether a trial must not influence later ones: it was interrupted, or it will be retried.

    Every other failed trial is visible to the sampler, which would otherwise propose the same point again.
    """
    dead = trial.notes.get("dead", False) and trial.notes.get("attempt", 0) < MOST_RETRIES
    return trial.notes.get("reason") == INTERRUPTED or dead


def result_attributes(seconds: float, ends: tuple[float, float] | None) -> dict[str, float]:
    """Return the notes of a complete trial: its duration, and the interval of its score where it is known."""
    interval = {} if ends is None else {"auc_low": round(ends[0], 6), "auc_high": round(ends[1], 6)}
    return {"seconds": round(seconds, 4), **interval}


class TrialAlreadyEnded(Exception):  # noqa: N818  # not an error: the first end counts
    """Another process has ended the trial in another way."""


class SearchExhausted(RunError):  # noqa: N818  # named for what happened
    """The sampler has no point left to propose."""


class Engine(Protocol):
    """One study in one engine, opened with a space and a sampler.

    A method that ends a trial raises `TrialAlreadyEnded` if the trial has ended in another way, and does nothing if it
    has ended in the same way.
    """

    @property
    def beat_seconds(self) -> float | None:
        """Seconds between two calls of `beat`; None if the engine needs no heartbeat."""

    def ask(self, point: Params | None = None, notes: dict[str, Any] | None = None) -> Trial:
        """Start a trial.

        Args:
            point: Parameters of the trial; None to have the sampler choose them.
            notes: Notes that are stored with the trial in the same step.

        Raises:
            SearchExhausted: If the sampler has no point left.
        """

    def report(self, number: int, report: IntermediateValue) -> bool:
        """Report an intermediate value of a running trial. Returns whether the trial is to be pruned."""

    def complete(self, number: int, score: float, seconds: float, ends: tuple[float, float] | None = None) -> None:
        """End a trial with its score, and the ends of the score's interval where they are known."""

    def prune(self, number: int, seconds: float) -> None:
        """End a trial as pruned."""

    def fail(self, number: int, reason: str, dead: bool = False) -> None:
        """End a trial without a score. `dead` says that its process died, so that the trial is retried."""

    def annotate(self, number: int, notes: dict[str, str]) -> None:
        """Store notes for people with a trial that has ended, where the engine shows its trials to people."""

    def beat(self, number: int) -> None:
        """Record that the process of a running trial is alive, for processes on other hosts."""

    def stale(self) -> set[int]:
        """Return the numbers of running trials whose heartbeat is overdue."""

    def trials(self) -> list[Trial]:
        """Return all trials, ordered by number."""

    def importances(self) -> dict[str, float]:
        """Return the share of the score's variance that each parameter explains, largest first; empty if unknown."""

    def delete(self) -> None:
        """Delete the study."""


@dataclass(frozen=True)
class Capabilities:
    """What an engine supports.

    Attributes:
        prunes: Whether intermediate values can end a trial early (`--pruner`).
        parallel: Whether several processes can ask for trials at once (`--workers` above 1).
        uses_database: Whether studies are kept in the database of `--storage`, so that workers can join by its URL.
        advice: Sentence that follows the message when an option is refused, by option; may be empty.
    """

    prunes: bool
    parallel: bool
    uses_database: bool
    advice: Mapping[str, str] = field(default_factory=dict)


class StoredStudy(Protocol):
    """A study in an engine's storage, without a space or a sampler."""

    def metadata(self) -> dict[str, Any]:
        """Return what the study was created with.

        Raises:
            StudyError: If another program created the study.
        """

    def save_settings(self, settings: dict[str, Any]) -> None:
        """Store the settings of the last command that opened the study, for workers that join it."""

    def load_settings(self) -> dict[str, Any]:
        """Return the settings that were stored last."""

    def completed_trials(self) -> list[tuple[float, Params]]:
        """Return score and parameters of every complete trial."""

    def add_backbones(self, metadata: dict[str, Any], backbones: Sequence[str]) -> StoredStudy:
        """Extend the choices of the parameter `backbone`.

        Args:
            metadata: Replaces what `metadata` returns.
            backbones: All backbones, the earlier ones first.

        Returns:
            The extended study, with all trials.

        Raises:
            StudyError: If a trial is running.
        """

    def engine(
        self, space: Sequence[Parameter], sampler: str, seed: int, pruner: str = "none", steps_per_fold: int = 1
    ) -> Engine:
        """Open the study for trials.

        Args:
            space: Parameters of the study.
            sampler: One of the engine's samplers.
            seed: Random seed of the study.
            pruner: Name of the pruner; `none` for an engine that does not prune.
            steps_per_fold: Intermediate values that one fold reports.
        """


class StudyStore(Protocol):
    """An engine as a part that can be exchanged: its storage, and what it supports.

    `storage` is the value of `--storage`; an engine without a database ignores it.
    """

    name: str
    title: str  # for people, such as "KerasTuner"
    capabilities: Capabilities

    def samplers(self) -> tuple[str, ...]:
        """Return the names of the samplers, the default first."""

    def sampler_source(self, name: str) -> PluginSource | None:
        """Return the distribution of a sampler; None for one of the engine's own."""

    def check(self, storage: str) -> None:
        """Refuse a storage that cannot be used.

        Raises:
            SettingsError: If it is none that the engine can use.
        """

    def location(self, storage: str) -> str:
        """Return where the studies are, for messages; never contains a password."""

    def lock_key(self, storage: str) -> str:
        """Return what identifies the storage among those on this machine."""

    def open(self, storage: str, name: str, metadata: dict[str, Any]) -> StoredStudy:
        """Open a study; create it with `metadata` if it does not exist."""

    def find(self, storage: str, name: str, patient: bool = False) -> StoredStudy:
        """Open an existing study; `patient` waits for a storage that is away.

        Raises:
            MissingError: If there is no study of this name; the message lists those that exist.
        """

    def names(self, storage: str) -> list[str]:
        """Return the names of all studies. Creates no storage."""

    def discard_if_new(self, storage: str) -> None:
        """Delete the storage if this process created it and no study is in it."""
