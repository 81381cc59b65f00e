"""What a study tells whoever watches it. This one says nothing; the terminal's is in `bhsearch.progress`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from bhsearch.data.pixels import Progress
from bhsearch.search.engine import Trial


@dataclass(frozen=True)
class Plan:
    """What a study is about to do.

    Attributes:
        rows: Heading and text, in the order to be read.
        warnings: Sentences to be read before trusting a number.
        invalid: Sentences why the numbers mean nothing; empty where they do.
    """

    rows: Sequence[tuple[str, str]]
    warnings: Sequence[str] = ()
    invalid: Sequence[str] = ()


class Reporter:
    """Hears what a study does."""

    def plan(self, plan: Plan) -> None:
        """Before the first trial."""

    def step(self, what: str) -> AbstractContextManager[Progress]:
        """A piece of work with a length: the context gives a function of (done, total)."""
        return nullcontext(_ignore)

    def trials(self, done: int, total: int) -> AbstractContextManager[None]:
        """Around all trials."""
        return nullcontext()

    def trial(self, trial: Trial, best: Trial | None) -> None:
        """After each trial."""

    def say(self, sentence: str) -> None:
        """Something worth a line."""


def _ignore(done: int, total: int) -> None:
    """Progress that nobody watches."""
