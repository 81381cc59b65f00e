"""What a report is made of: plain records, gathered elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.selection import Corrected


@dataclass(frozen=True)
class TrialRow:
    """A trial.

    Attributes:
        number: Within the study.
        state: As in `bhsearch.states`.
        score: None unless complete.
        low, high: Ends of its 95 % interval over cases; nan where there is none.
        tied: Whether it cannot be told from the best.
        seconds: What it took; 0 where that is not known.
        params: The point of the space, numbers as numbers.
        reason: Why it failed; empty unless it did.
    """

    number: int
    state: str
    score: float | None
    low: float
    high: float
    tied: bool
    seconds: float
    params: Mapping[str, Any]
    reason: str = ""


@dataclass(frozen=True)
class TestSummary:
    """The sealed test, where it was opened.

    Attributes:
        value, low, high: AUC with its 95 % interval over cases.
        trial: What was tested, such as `trial 3`.
        openings: How often these sealed cases were opened.
        others: Other numbers of it, by name.
    """

    __test__ = False  # not a class of tests, whatever its name

    value: float
    low: float
    high: float
    trial: str
    openings: int
    others: Mapping[str, float]


@dataclass(frozen=True)
class Shown:
    """One image of the best trial.

    Attributes:
        picture: PNG or JPEG file.
        caption: What there is to know of it.
        right: Whether its class was met.
    """

    picture: bytes
    caption: str
    right: bool


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that a report shows.

    Attributes:
        study: Name of the study.
        data: Name of the data set.
        synthetic: Whether the images are drawn by a program.
        has_cases: Whether the cases are known.
        invalid: Sentences why the numbers mean nothing; empty where they do.
        warnings: Sentences to be read before trusting a score.
        n_cases: Groups of cases that the search scored on, benign and malignant; one with both counts in both.
        rows: All trials, by number.
        best: Out-of-fold predictions of the best trial; None where MLflow does not have them.
        corrected: The best score, corrected for having searched; None where that is not at hand.
        uncorrected: Why it is not; empty where it is.
        test: The sealed test, last opening; None while it is sealed.
        images: Of the best trial, right ones first; may be empty.
        kept_images: The picture that MLflow keeps of them, where the images themselves are gone; may be empty.
        importances: Share of the score's variation by parameter; empty where unknown.
        log: Parameters on a logarithmic scale.
        space: Name, values and meaning of each parameter.
        facts: What was searched on, and how: names and values.
        audit: The leakage audit, a line each.
        versions: Names and versions of what it was made with.
    """

    study: str
    data: str
    synthetic: bool
    has_cases: bool
    invalid: Sequence[str]
    warnings: Sequence[str]
    n_cases: tuple[int, int, int]
    rows: Sequence[TrialRow]
    best: Predictions | None
    corrected: Corrected | None
    uncorrected: str
    test: TestSummary | None
    images: Sequence[Shown]
    kept_images: bytes
    importances: Mapping[str, float]
    log: Sequence[str]
    space: Sequence[tuple[str, str, str]]
    facts: Mapping[str, str]
    audit: Sequence[str]
    versions: Mapping[str, str]

    @property
    def ranked(self) -> list[TrialRow]:
        """Complete trials, best first; of equals the first."""
        complete = [row for row in self.rows if row.score is not None]
        return sorted(complete, key=lambda row: (-(row.score or 0.0), row.number))
