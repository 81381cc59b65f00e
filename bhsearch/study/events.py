"""What a command tells whoever watches it. This one says nothing; the terminal's is in `bhsearch.cli.progress`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from bhsearch.data.images.pixel_cache import Progress
from bhsearch.engines.base import Trial


@dataclass(frozen=True)
class StudyPlan:
    """What a study is about to do.

    Attributes:
        rows: Heading and text, in the order to be read.
        warnings: Sentences to be read before trusting a number.
        invalid: Sentences why the numbers mean nothing; empty where they do.
    """

    rows: Sequence[tuple[str, str]]
    warnings: Sequence[str] = ()
    invalid: Sequence[str] = ()


class ProgressReporter:
    """Receives what a command does."""

    def plan(self, plan: StudyPlan) -> None:
        """Receive the plan, before the first trial."""

    def step(self, what: str) -> AbstractContextManager[Progress]:
        """Name a piece of work around which this stands; steps may be nested.

        Args:
            what: Its name, such as `reading images`.

        Returns:
            A context that gives a function of (done, total), which need not be called.
        """
        return nullcontext(_ignore)

    def trials(self, done: int, total: int, best: Trial | None = None) -> AbstractContextManager[None]:
        """Stand around all trials.

        Args:
            done: Finished trials of earlier commands.
            total: Finished trials that the study shall have.
            best: The best of those that are done.
        """
        return nullcontext()

    def began(self, number: int) -> None:
        """Take note that a trial has begun."""

    def doing(self, what: str, number: int | None = None) -> None:
        """Take note of what a trial is doing, such as `fold 2 of 5, epoch 4 of 6`.

        Args:
            what: In a few words.
            number: Of the trial; None for the one that began last.
        """

    def trial(self, trial: Trial, best: Trial | None) -> None:
        """Receive a trial that has ended, and the best one so far."""

    def say(self, sentence: str) -> None:
        """Receive something worth a line."""


def _ignore(done: int, total: int) -> None:
    """Progress that nobody watches."""
