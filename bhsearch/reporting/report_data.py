"""What a report is made of: plain records, gathered elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bhsearch.evaluation.bbc_cv import CorrectedScore
from bhsearch.evaluation.predictions import Predictions


@dataclass(frozen=True)
class TrialRow:
    """A trial.

    Attributes:
        number: Within the study.
        state: As in `bhsearch.states`.
        score: None unless complete.
        low, high: Ends of its 95 % interval over cases; nan where there is none.
        tied: Whether it cannot be told from the best.
        params: The point of the space, numbers as numbers.
        milliseconds: Time of the deployed network for one image; nan where unknown.
        megabytes: Size of the deployed network's weights; nan where unknown.
        reason: Why it failed; empty unless it did.
    """

    number: int
    state: str
    score: float | None
    low: float
    high: float
    tied: bool
    params: Mapping[str, Any]
    milliseconds: float = math.nan
    megabytes: float = math.nan
    reason: str = ""


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % interval over cases; the ends are nan where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class TestAccess:
    """One time that the sealed cases were opened.

    Attributes:
        when: UTC, ISO 8601.
        study: Name of the study that it was opened for.
        trial: What was tested, such as `trial 3`.
        auc: AUC on the sealed cases; None where registering failed before there was one.
        verdict: `passed` or `refused`, as the gate said; empty where registering failed before the gate.
        reason: The gate's reason, or why registering failed.
        forced: The user's reason for promoting the version against the gate; empty unless that was done.
        alias: What the version was promoted to, such as `champion`; empty unless it was.
    """

    when: str
    study: str
    trial: str
    auc: Measured | None
    verdict: str
    reason: str
    forced: str = ""
    alias: str = ""


@dataclass(frozen=True, eq=False)
class TestSummary:
    """The last opening for this study that gave a number.

    Attributes:
        opening: When, of what, and what the gate said.
        auc: AUC with its 95 % interval over cases.
        decided: The AUC that the gate looked at, on the groups that it compared: `auc` unless some were left out.
        others: Other metrics, by name.
        compared: Groups of cases that the gate compared, with benign and with malignant images: those that no model in
            the comparison was developed on. None where the gate did not decide.
        threshold: A probability from here on is called malignant; nan where it was not kept.
        predictions: Calibrated probabilities of the sealed images, as registering kept them; None where it did not.
    """

    __test__ = False  # not a class of tests, whatever its name

    opening: TestAccess
    auc: Measured
    decided: Measured
    others: Mapping[str, Measured]
    compared: tuple[int, int] | None = None
    threshold: float = math.nan
    predictions: Predictions | None = None


@dataclass(frozen=True)
class SealedCases:
    """The sealed part of the data.

    Attributes:
        n_cases: Groups of cases.
        n_benign: Those with benign images.
        n_malignant: Those with malignant images; a group with both counts in both.
        n_images: Images.
    """

    n_cases: int
    n_benign: int
    n_malignant: int
    n_images: int


@dataclass(frozen=True)
class ExampleImage:
    """One image of the best trial.

    Attributes:
        file: Content of a PNG or JPEG file.
        caption: Probability, class and case.
        correct: Whether its predicted label is right.
    """

    file: bytes
    caption: str
    correct: bool


@dataclass(frozen=True, eq=False)
class StudyReport:
    """Everything that a report shows.

    Attributes:
        study: Name of the study.
        data: Name of the data set.
        synthetic: Whether the images are drawn by a program.
        has_cases: Whether the cases are known.
        invalid: Sentences why the numbers mean nothing; empty where they do.
        warnings: Sentences to be read before trusting a score.
        n_cases: Groups of cases that the search scored on, benign and malignant; one with both counts in both.
        sealed: The sealed part.
        rows: All trials, by number.
        best: Out-of-fold predictions of the best trial; None where MLflow does not have them.
        corrected: The best score, corrected for having searched; None where it cannot be computed.
        uncorrected: Why it cannot; empty where it can.
        openings: Every opening of the sealed cases in this store, for whatever study, first to last.
        test: The last one for this study that gave a number; None before.
        images: Of the best trial, right ones first; may be empty.
        kept_images: The picture that MLflow keeps of them, where the images themselves are gone; may be empty.
        importances: Share of the score's variation by parameter; empty where unknown.
        spread: By how much each importance may be off, from resampled trials; empty where unknown.
        log: Parameters on a logarithmic scale.
        space: Name, values and meaning of each parameter.
        facts: What was searched on, and how: names and values.
        audit: The leakage audit, a line each.
        made: When, how and on what the study was made: names and values.
        versions: Names and versions of what it was made with.
    """

    study: str
    data: str
    synthetic: bool
    has_cases: bool
    invalid: Sequence[str]
    warnings: Sequence[str]
    n_cases: tuple[int, int, int]
    sealed: SealedCases
    rows: Sequence[TrialRow]
    best: Predictions | None
    corrected: CorrectedScore | None
    uncorrected: str
    openings: Sequence[TestAccess]
    test: TestSummary | None
    images: Sequence[ExampleImage]
    kept_images: bytes
    importances: Mapping[str, float]
    spread: Mapping[str, float]
    log: Sequence[str]
    space: Sequence[tuple[str, str, str]]
    facts: Mapping[str, str]
    audit: Sequence[str]
    made: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def ranked(self) -> list[TrialRow]:
        """Complete trials, best first; of equals the first."""
        complete = [row for row in self.rows if row.score is not None]
        return sorted(complete, key=lambda row: (-(row.score or 0.0), row.number))

    @property
    def important(self) -> dict[str, tuple[float, float]]:
        """Share and spread of the parameters whose share is larger than its spread, largest first.

        Empty where the spread is not known: a share alone cannot be told from noise.
        """
        found = {name: (share, self.spread[name]) for name, share in self.importances.items() if name in self.spread}
        kept = {name: pair for name, pair in found.items() if pair[0] > pair[1]}
        return dict(sorted(kept.items(), key=lambda item: -item[1][0]))
