"""Items of a reporting checklist, and answers to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FILLED, AUTHOR, NOT_APPLICABLE = "filled", "author's", "not applicable"
STATUSES = (FILLED, AUTHOR, NOT_APPLICABLE)


@dataclass(frozen=True)
class Item:
    """One item of a checklist.

    Attributes:
        number: Number of the item in the guideline, such as `5a`.
        section: Section of the guideline.
        asks: What the item asks for, in our own words.
    """

    number: str
    section: str
    asks: str


@dataclass(frozen=True)
class Answer:
    """The answer to an item.

    Attributes:
        status: One of `STATUSES`.
        value: Answer from the records of the study, or the reason why the item is not applicable; empty for items that
            the author must answer.
        still: What the author must write or add; may be empty, except in an answer of the author.

    Raises:
        ValueError: If the status is unknown, an item that is filled or not applicable has no value, or an item of the
            author has one, or does not say what to write.
    """

    status: str
    value: str
    still: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"`status` must be one of {', '.join(STATUSES)}, but got {self.status!r}.")
        is_author = self.status == AUTHOR
        if bool(self.value.strip()) == is_author:
            raise ValueError(f"An answer that is {self.status} must {'not ' * is_author}have a value.")
        if is_author and not self.still.strip():
            raise ValueError("An answer of the author must say what to write.")


def filled(value: str, still: str = "", missing: str = "The records of the study do not hold this.") -> Answer:
    """Return a filled answer, or an answer of the author if the study has no value.

    Args:
        value: Value from the records of the study; may be empty.
        still: What the author must add to the value.
        missing: What the author must know or write if there is no value.
    """
    return Answer(FILLED, value, still) if value.strip() else author(missing)


def author(still: str) -> Answer:
    """Return an answer that the author must write."""
    return Answer(AUTHOR, "", still)


def not_applicable(reason: str) -> Answer:
    """Return the answer to an item that does not apply."""
    return Answer(NOT_APPLICABLE, reason)


@dataclass(frozen=True)
class Checklist:
    """A reporting guideline with the answers of a study.

    Attributes:
        name: Short name of the guideline.
        citation: Reference with DOI.
        items: Items in the order of the guideline.
        answers: Answer to each item, by number.

    Raises:
        ValueError: If the answers are not exactly those of the items.
    """

    name: str
    citation: str
    items: Sequence[Item]
    answers: Mapping[str, Answer]

    def __post_init__(self) -> None:
        numbers = [item.number for item in self.items]
        if len(set(numbers)) < len(numbers) or set(numbers) != set(self.answers):
            wrong = sorted(set(numbers) ^ set(self.answers))
            raise ValueError(f"`answers` must have one answer per item, but differ from the items in {wrong}.")

    @property
    def size(self) -> str:
        """Number of items as text, such as `44 items` or `27 items in 52 parts`."""
        items = {item.number.rstrip("abcdefgh") for item in self.items}
        parts = f" in {len(self.items)} parts" if len(self.items) > len(items) else ""
        return f"{len(items)} items{parts}"

    def counts(self) -> dict[str, int]:
        """Return the number of items, or of their parts, of each status."""
        found = [answer.status for answer in self.answers.values()]
        return {status: found.count(status) for status in STATUSES}
