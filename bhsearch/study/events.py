"""The interface for progress events of a command; `cli.progress` implements it for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from bhsearch.data.images.pixel_cache import Progress
from bhsearch.engines.base import Trial


@dataclass(frozen=True)
class StudyPlan:
    """The plan of a study, which is shown before the first trial.

    Attributes:
        rows: Pairs of heading and text, in the order of display.
        warnings: Sentences about limits of the data or the split that affect the scores.
        invalid: Reasons why the scores are invalid; empty if they are valid.
    """

    rows: Sequence[tuple[str, str]]
    warnings: Sequence[str] = ()
    invalid: Sequence[str] = ()


class ProgressReporter:
    """A receiver of progress events that ignores them all; subclasses display them."""

    def plan(self, plan: StudyPlan) -> None:
        """Handle the plan of the study, before the first trial."""

    def step(self, what: str) -> AbstractContextManager[Progress]:
        """Return a context manager that encloses a named step; steps may be nested.

        Args:
            what: Name of the step, such as `reading images`.

        Returns:
            A context manager that yields a callback `progress(done, total)`; calling the callback is optional.
        """
        return nullcontext(_ignore)

    def trials(self, done: int, total: int, best: Trial | None = None) -> AbstractContextManager[None]:
        """Return a context manager that encloses the running of trials.

        Args:
            done: Number of trials that earlier commands finished.
            total: Number of finished trials that the study should reach.
            best: Best trial of earlier commands; None if no trial is complete.
        """
        return nullcontext()

    def began(self, number: int) -> None:
        """Handle the start of a trial."""

    def doing(self, what: str, number: int | None = None) -> None:
        """Handle a progress message of a trial, such as `fold 2 of 5, epoch 4 of 6`.

        Args:
            what: Progress message.
            number: Number of the trial; None for the most recently started trial.
        """

    def trial(self, trial: Trial, best: Trial | None) -> None:
        """Handle the end of a trial; `best` is the best trial so far."""

    def say(self, sentence: str) -> None:
        """Handle a message for the user."""

    def verbatim(self, line: str) -> None:
        """Handle a line that must be shown as it is, such as a command for the user to copy."""


def _ignore(done: int, total: int) -> None:
    """Do nothing with a progress update."""
