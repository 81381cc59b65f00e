"""Progress events of a command. The reporter here ignores them; `cli.progress` shows them in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from bhsearch.data.images.pixel_cache import Progress
from bhsearch.engines.base import Trial


@dataclass(frozen=True)
class StudyPlan:
    """The plan of a study, as it is shown before the first trial.

    Attributes:
        rows: Heading and text, in reading order.
        warnings: Sentences that a reader must know before trusting a score.
        invalid: Reasons why the scores are invalid; empty if they are valid.
    """

    rows: Sequence[tuple[str, str]]
    warnings: Sequence[str] = ()
    invalid: Sequence[str] = ()


class ProgressReporter:
    """Receives the progress events of a command, and ignores them."""

    def plan(self, plan: StudyPlan) -> None:
        """Receive the plan, before the first trial."""

    def step(self, what: str) -> AbstractContextManager[Progress]:
        """Return a context that lasts as long as a named step; steps may be nested.

        Args:
            what: Name of the step, such as `reading images`.

        Returns:
            A context that gives a function of (done, total), which need not be called.
        """
        return nullcontext(_ignore)

    def trials(self, done: int, total: int, best: Trial | None = None) -> AbstractContextManager[None]:
        """Return a context that lasts as long as trials run.

        Args:
            done: Finished trials of earlier commands.
            total: Finished trials that the study shall have.
            best: The best of those that are done.
        """
        return nullcontext()

    def began(self, number: int) -> None:
        """Receive the start of a trial."""

    def doing(self, what: str, number: int | None = None) -> None:
        """Receive what a trial is doing, such as `fold 2 of 5, epoch 4 of 6`.

        Args:
            what: Short description.
            number: Number of the trial; None for the one that started last.
        """

    def trial(self, trial: Trial, best: Trial | None) -> None:
        """Receive a trial that has ended, and the best one so far."""

    def say(self, sentence: str) -> None:
        """Receive a sentence for the user."""


def _ignore(done: int, total: int) -> None:
    """Ignore progress."""
