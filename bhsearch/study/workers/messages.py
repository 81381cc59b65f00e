"""Messages between the pool and its workers: a frozen dataclass per kind, sent as a pickle through the channel.

The messages carry contexts, trials and arrays of this package, and are read only by processes that the command has
started. Text messages that need no study are in `runtime.messages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch import errors
from bhsearch.data.arrays import Float32Array
from bhsearch.engines.base import Trial
from bhsearch.errors import BhsearchError, RunError
from bhsearch.study.context import StudyContext
from bhsearch.study.resume.metadata import StudyMetadata
from bhsearch.study.workers.worker import StoppingCriteria

# -- to a worker -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class WorkerTask:
    """The task of a worker, its first message: the study to run trials of, and the stopping criteria.

    Attributes:
        prepared: Context of the study.
        metadata: Metadata of the study.
        outbox: Folder of the command's outbox; None without tracking.
        criteria: Stopping criteria of the worker.
    """

    prepared: StudyContext
    metadata: StudyMetadata
    outbox: Path | None
    criteria: StoppingCriteria


@dataclass(frozen=True)
class StartTrials:
    """Tell a worker that is prepared to run trials."""


@dataclass(frozen=True)
class Stop:
    """Tell a worker to fail its running trial and exit."""


PoolMessage = WorkerTask | StartTrials | Stop


# -- from a worker -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Connected:
    """Report that the worker has opened the channel.

    Attributes:
        owner: Process of the worker, from `this_process`.
    """

    owner: dict[str, Any]


@dataclass(frozen=True)
class StepStarted:
    """Report the start of a step of the preparation, such as `reading images`."""

    name: str


@dataclass(frozen=True)
class StepAdvanced:
    """Report the progress of the innermost step."""

    done: int
    total: int


@dataclass(frozen=True)
class StepEnded:
    """Report the end of the innermost step."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Report that the worker is ready to run trials.

    Attributes:
        examples: Example images by augmentation policy; empty in the frozen regime.
    """

    examples: Mapping[str, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class TrialStarted:
    """Report that a trial has started."""

    number: int


@dataclass(frozen=True)
class TrialAdvanced:
    """Report the progress of a trial.

    Attributes:
        what: Progress message, such as `fold 2 of 5, epoch 4 of 6`.
        number: Number of the trial; None before the first trial.
    """

    what: str
    number: int | None


@dataclass(frozen=True, eq=False)
class TrialEnded:
    """Report that a trial has ended.

    Attributes:
        number: Number of the trial.
        probability: Out-of-fold P(malignant), shape (n_repeats, n_images); None unless the trial is complete.
    """

    number: int
    probability: Float32Array | None


@dataclass(frozen=True, eq=False)
class TrialRescued:
    """Report a complete trial that the engine could not store because its storage is lost.

    Attributes:
        trial: The complete trial.
        probability: Out-of-fold P(malignant). Shape (n_repeats, n_images).
    """

    trial: Trial
    probability: Float32Array


@dataclass(frozen=True)
class Waiting:
    """Report that the worker can start no trial, because other workers run the last trials."""


@dataclass(frozen=True)
class UserMessage:
    """A sentence to show to the user."""

    sentence: str


@dataclass(frozen=True)
class Finished:
    """Report that the worker starts no further trial and exits.

    Attributes:
        verdict: Reason of the end: `DONE`, `TIME`, `OUTGROWN` or `STOPPED`.
    """

    verdict: str


@dataclass(frozen=True)
class WorkerFailed:
    """Report an error that would also occur in every other worker.

    Attributes:
        kind: Name of the exception class in `bhsearch.errors`.
        reason: Message of the exception.
    """

    kind: str
    reason: str

    def error(self) -> BhsearchError:
        """Return the error as an exception; a `RunError` if `bhsearch.errors` has no class of this name."""
        error: BhsearchError = getattr(errors, self.kind, RunError)(self.reason)
        return error


WorkerMessage = (
    Connected
    | StepStarted
    | StepAdvanced
    | StepEnded
    | Prepared
    | TrialStarted
    | TrialAdvanced
    | TrialEnded
    | TrialRescued
    | Waiting
    | UserMessage
    | Finished
    | WorkerFailed
)
