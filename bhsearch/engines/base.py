"""The interface of engines: the record of a trial, and the protocols that every engine implements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bhsearch.errors import RunError
from bhsearch.objectives.base import MS_PER_IMAGE, IntermediateValue
from bhsearch.objectives.joint import Joints
from bhsearch.objectives.space import Parameter, Params
from bhsearch.plugins import PluginSource
from bhsearch.states import COMPLETE, FAILED, PRUNED


@dataclass(frozen=True)
class Trial:
    """A record of one trial, independent of the engine that stores the trial.

    Attributes:
        number: Number within the study, from 0.
        state: `COMPLETE`, `PRUNED`, `FAIL` or `RUNNING`.
        params: Value of each parameter.
        value: Score; None unless the trial is complete.
        notes: Metadata of the trial by key, called notes throughout the package. All trials: `owner` (the process that
            runs the trial). Complete and pruned trials: `seconds` (duration). Complete trials: `auc_low` and `auc_high`
            (confidence interval of the score), and `ms_per_image` (inference time of the deployed model; absent if
            unknown). Failed trials: `reason`, and `dead` if the process died. Retries:
            `retry_of` (number of the retried trial) and `attempt` (1 or 2). Trials that a user has enqueued and nobody
            has started: `waiting`. Further keys are set by the worker, such as `warm` (index of the warm-start point)
            and `outbox` (folder of the outbox).
    """

    number: int
    state: str
    params: Params
    value: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def owner(self) -> dict[str, Any]:
        """The process that runs the trial, in the format of `this_process`; empty if unknown."""
        owner: dict[str, Any] = self.notes.get("owner", {})
        return owner

    @property
    def counts(self) -> bool:
        """Whether the trial counts towards `--trials`, which is true of complete and pruned trials."""
        return self.state in (COMPLETE, PRUNED)

    @property
    def was_sampled(self) -> bool:
        """Whether the trial has parameters or will get them; false if its process died before it was sampled."""
        return self.state != FAILED or bool(self.params)


INTERRUPTED = "interrupted"  # `reason` of a trial that failed because the user interrupted the search
MOST_RETRIES = 2  # maximum number of retries of a trial whose process died


def is_ignored_on_resume(trial: Trial) -> bool:
    """Return whether the sampler must not see a trial, because the trial was interrupted or will be retried.

    The sampler sees every other failed trial; otherwise it would propose the same point again.
    """
    dead = trial.notes.get("dead", False) and (trial.notes.get("attempt", 0) < MOST_RETRIES or not trial.was_sampled)
    return trial.notes.get("reason") == INTERRUPTED or dead


def result_attributes(
    seconds: float, ends: tuple[float, float] | None, milliseconds: float | None = None
) -> dict[str, float]:
    """Return the notes of a complete trial.

    Args:
        seconds: Duration of the trial.
        ends: Lower and upper end of the confidence interval of the score; None if unknown.
        milliseconds: Inference time of the deployed model per image; None if unknown.
    """
    interval = {} if ends is None else {"auc_low": round(ends[0], 6), "auc_high": round(ends[1], 6)}
    cost = {} if milliseconds is None else {MS_PER_IMAGE: milliseconds}
    return {"seconds": round(seconds, 4), **interval, **cost}


class TrialAlreadyEnded(Exception):  # noqa: N818  # not an error: the first end counts
    """The trial has already ended, with a different state or score, usually because another process ended it."""


class SearchExhausted(RunError):  # noqa: N818  # named for what happened
    """The sampler has no more points to propose."""


class Engine(Protocol):
    """A study that is open for trials, with a search space and a sampler.

    The methods that end a trial (`complete`, `prune` and `fail`) are idempotent: they do nothing if the trial has
    already ended with the same result, and raise `TrialAlreadyEnded` if it has ended with a different one.
    """

    @property
    def beat_seconds(self) -> float | None:
        """Seconds between two calls of `beat`; None if the engine needs no heartbeat."""

    def ask(
        self, point: Params | None = None, notes: dict[str, Any] | None = None, seconds_left: float = math.inf
    ) -> Trial:
        """Start a trial, with a first heartbeat if the engine needs them, and return its record.

        A worker calls `trials` and then `ask` while it holds the lock of the study, so that an engine need not read the
        trials again if `trials` was the last call.

        Args:
            point: Parameters of the trial; None to let the sampler choose them.
            notes: Notes that are stored with the trial when it is created; see `Trial.notes`.
            seconds_left: Seconds of a budget that is too small for all features; infinity without one. An engine that
                knows costs proposes fewer trials that need new features, and none that needs more seconds. Other
                engines ignore the argument.

        Raises:
            SearchExhausted: If the sampler has no more points to propose.
        """

    def report(self, number: int, report: IntermediateValue) -> bool:
        """Report an intermediate value of a running trial, and return whether the trial should be pruned."""

    def complete(
        self,
        number: int,
        score: float,
        seconds: float,
        ends: tuple[float, float] | None = None,
        milliseconds: float | None = None,
    ) -> None:
        """End a trial as complete.

        Args:
            number: Number of the trial.
            score: Score of the trial.
            seconds: Duration of the trial.
            ends: Lower and upper end of the confidence interval of the score; None if unknown.
            milliseconds: Inference time of the deployed model per image; None if unknown.
        """

    def prune(self, number: int, seconds: float) -> None:
        """End a trial as pruned."""

    def fail(self, number: int, reason: str, dead: bool = False) -> None:
        """End a trial as failed.

        Args:
            number: Number of the trial.
            reason: Reason of the failure, for messages.
            dead: Whether the process of the trial died; such a trial is retried up to `MOST_RETRIES` times.
        """

    def annotate(self, number: int, notes: dict[str, str]) -> None:
        """Add notes to a trial that has ended, for display; does nothing if the engine has no display of trials."""

    def beat(self, number: int) -> None:
        """Record a heartbeat of a running trial, which tells processes on other hosts that its process is alive."""

    def stale(self) -> set[int]:
        """Return the numbers of running trials whose heartbeat is overdue."""

    def trials(self) -> list[Trial]:
        """Return all trials, ordered by number."""

    def costs(self) -> dict[str, Any]:
        """Return the costs that were stored with the study, JSON-compatible; empty if none were stored."""

    def save_costs(self, costs: dict[str, Any]) -> None:
        """Store JSON-compatible costs with the study, so that every process and every later command uses the same."""

    def joints(self) -> Joints:
        """Return the joined backbones by name of the joint one; empty without `--combine`, and before the decision.

        The decision is stored once and never changes.
        """

    def importances(self) -> dict[str, float]:
        """Return the fraction of the score's variance explained by each parameter, largest first; empty if unknown."""

    def delete(self) -> None:
        """Delete the study."""


@dataclass(frozen=True)
class Capabilities:
    """The options that an engine supports.

    Attributes:
        prunes: Whether the engine can prune trials (`--pruner`).
        parallel: Whether several processes can run trials at the same time (`--workers` above 1).
        uses_database: Whether studies are stored in the database given by `--storage`, whose URL workers use to join.
        combines: Whether the engine can decide during a study which backbones are joined (`--combine`).
        paced: Samplers that set the number of epochs of a trial themselves, and so need a parameter `epochs`.
        advice: Sentence appended to the error message when an option is refused, by option name; may be empty.
    """

    prunes: bool
    parallel: bool
    uses_database: bool
    combines: bool = False
    paced: tuple[str, ...] = ()
    advice: Mapping[str, str] = field(default_factory=dict)


class StoredStudy(Protocol):
    """A study in an engine's storage, not yet opened with a search space and a sampler."""

    def metadata(self) -> dict[str, Any]:
        """Return the metadata that the study was created with.

        Raises:
            StudyError: If another program created the study.
        """

    def save_settings(self, settings: dict[str, Any]) -> None:
        """Store the settings of the last command that opened the study, for workers that join it."""

    def load_settings(self) -> dict[str, Any]:
        """Return the most recently stored settings."""

    def completed_trials(self) -> list[tuple[float, Params]]:
        """Return the score and the parameters of every complete trial."""

    def add_backbones(self, metadata: dict[str, Any], backbones: Sequence[str]) -> StoredStudy:
        """Extend the choices of the parameter `backbone`.

        Args:
            metadata: New metadata of the study, which replaces the stored metadata.
            backbones: All choices of the parameter `backbone`, existing ones first.

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
            sampler: Name of one of the engine's samplers.
            seed: Random seed of the study.
            pruner: Name of the pruner; must be `none` if the engine does not support pruning.
            steps_per_fold: Number of intermediate values reported per fold.
        """


class StudyStore(Protocol):
    """The entry point of an engine: creates, finds and lists its studies, and declares its capabilities.

    In all methods, `storage` is the value of `--storage`; an engine that uses no database ignores the argument.
    """

    name: str
    title: str  # display name, such as "KerasTuner"
    capabilities: Capabilities

    def samplers(self) -> tuple[str, ...]:
        """Return the names of the samplers, the default first."""

    def sampler_source(self, name: str) -> PluginSource | None:
        """Return the Python distribution that provides a sampler; None for a sampler of the engine itself."""

    def check(self, storage: str) -> None:
        """Check that the engine can use a storage.

        Raises:
            SettingsError: If the engine cannot use the storage.
        """

    def location(self, storage: str) -> str:
        """Return the location of the studies, for messages, without any password."""

    def lock_key(self, storage: str) -> str:
        """Return a key that identifies the storage on this machine, for a lock on it."""

    def open(self, storage: str, name: str, metadata: dict[str, Any]) -> StoredStudy:
        """Open a study; create it with `metadata` if it does not exist."""

    def find(self, storage: str, name: str, patient: bool = False) -> StoredStudy:
        """Open an existing study; does not create the storage.

        Args:
            storage: Value of `--storage`.
            name: Name of the study.
            patient: Whether to retry while the storage is not available.

        Raises:
            MissingError: If the study does not exist; the message lists the existing studies.
        """

    def names(self, storage: str) -> list[str]:
        """Return the names of all studies; does not create the storage."""

    def discard_if_new(self, storage: str) -> None:
        """Delete the storage if this process created it and it contains no study."""
