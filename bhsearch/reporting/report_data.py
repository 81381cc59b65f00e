"""The data of a report as plain records; `lifecycle.build_report` fills them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bhsearch.evaluation.bbc_cv import CorrectedScore
from bhsearch.evaluation.predictions import Predictions


@dataclass(frozen=True)
class TrialRow:
    """One trial of the report.

    Attributes:
        number: Number within the study.
        state: One of `bhsearch.states`.
        score: None unless complete.
        low, high: Ends of its 95 % interval over cases; nan where there is none.
        tied: Whether it is tied with the best.
        params: Value of each parameter.
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
    """One opening of the sealed cases.

    Attributes:
        when: Time in UTC, ISO 8601.
        study: Name of the study that the test was opened for.
        trial: Trial that was tested, such as `trial 3`.
        auc: AUC on the sealed cases; None where registering failed before there was one.
        verdict: Decision of the gate, `passed` or `refused`; empty where registering failed before it.
        reason: Reason of the gate, or of the failure.
        forced: The user's reason for promoting the version against the gate; empty otherwise.
        alias: Alias that the version was promoted to, such as `champion`; empty if it was not promoted.
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
    """The last opening for this study that has a result.

    Attributes:
        opening: Time, trial and decision of the gate.
        auc: AUC with its 95 % interval over cases.
        decided: AUC on the groups that the gate compared; differs from `auc` if some were left out.
        others: Other metrics, by name.
        compared: Number of groups of cases with benign and with malignant images that the gate compared; groups used
            to develop a model in the comparison are left out. None where the gate did not decide.
        threshold: Images with at least this probability are called malignant; nan where unknown.
        predictions: Calibrated probabilities of the sealed images; None where they were not kept.
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
        n_cases: Number of groups of cases.
        n_benign: Number of groups with benign images.
        n_malignant: Number of groups with malignant images; a group with both classes counts in both.
        n_images: Number of images.
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
    """All data of a report.

    Attributes:
        study: Name of the study.
        data: Name of the data set.
        synthetic: Whether the images are drawn by a program.
        has_cases: Whether the cases are known.
        invalid: Reasons why the scores are not valid, as sentences; empty if they are.
        warnings: Warnings, as sentences.
        n_cases: Number of groups of cases in the search: all, with benign images, with malignant images.
        sealed: The sealed part.
        rows: All trials, by number.
        best: Out-of-fold predictions of the best trial; None where MLflow does not have them.
        corrected: The best score, corrected for having searched; None where it cannot be computed.
        uncorrected: Reason why it cannot be computed; empty otherwise.
        openings: Every opening of the sealed cases in this store, for any study, first to last.
        test: The last opening for this study that has a result; None if there is none.
        images: Examples of the best trial, right ones first; may be empty.
        kept_images: PNG of the examples that MLflow keeps, used if the images are gone; may be empty.
        importances: Share of the score's variation by parameter; empty where unknown.
        spread: Half-width of the 95 % interval of each importance over resampled trials; empty where unknown.
        log: Parameters on a logarithmic scale.
        space: Name, values and description of each parameter.
        facts: Data, split and settings of the search, by name.
        audit: Lines of the leakage audit.
        made: Time, command and machine of the study, by name.
        versions: Versions of packages, by name.
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
        """Complete trials, best first; equal scores by number."""
        complete = [row for row in self.rows if row.score is not None]
        return sorted(complete, key=lambda row: (-(row.score or 0.0), row.number))

    @property
    def important(self) -> dict[str, tuple[float, float]]:
        """Share and spread of the parameters whose share is larger than its spread, largest first.

        Empty where the spread is unknown, because a share without its spread may be noise.
        """
        found = {name: (share, self.spread[name]) for name, share in self.importances.items() if name in self.spread}
        kept = {name: pair for name, pair in found.items() if pair[0] > pair[1]}
        return dict(sorted(kept.items(), key=lambda item: -item[1][0]))
