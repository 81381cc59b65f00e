"""Plain records with the data of a report, filled by `lifecycle.build_report`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bhsearch.evaluation.mixed_score import score_title
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.robustness import Robustness
from bhsearch.evaluation.selection.bbc_cv import CorrectedScore
from bhsearch.evaluation.selection.nested import NestedScore
from bhsearch.evaluation.supplementary.learning_curve import LearningCurve
from bhsearch.tasks.base import Task
from bhsearch.text import plural


@dataclass(frozen=True)
class TrialRow:
    """One trial of a study.

    Attributes:
        number: Number of the trial within the study.
        state: One of the states of `bhsearch.states`.
        score: Score of the trial; None unless the trial is complete.
        low, high: Lower and upper end of the score's 95 % confidence interval, from a bootstrap over cases; nan if the
            score has no interval.
        tied: Whether the trial is tied with the best.
        params: Value of each parameter.
        proposed: Whether this is the trial that the study proposes.
        milliseconds: Inference time of the deployed network per image; nan if unknown.
        megabytes: Size of the deployed network's weights; nan if unknown.
        reason: Reason of a failure; empty if the trial did not fail.
        auc: AUC of unchanged images; nan if unknown. It is the score, unless shifts count in the score.
    """

    number: int
    state: str
    score: float | None
    low: float
    high: float
    tied: bool
    params: Mapping[str, Any]
    proposed: bool = False
    milliseconds: float = math.nan
    megabytes: float = math.nan
    reason: str = ""
    auc: float = math.nan


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % confidence interval; `low` and `high` are nan if the number has no interval."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class TestAccess:
    """One access to the held-out test set.

    Attributes:
        when: Time of the access in UTC, ISO 8601.
        study: Name of the study for which the test was opened.
        trial: The tested trial as text, such as `trial 3`.
        auc: AUC on the held-out test set; None if the registration failed before the AUC was computed.
        verdict: Decision of the gate, `passed` or `refused`; empty if the registration failed before the decision.
        reason: Reason of the gate's decision, or of the failure.
        forced: The user's reason for promoting the version against the gate; empty otherwise.
        alias: Alias that the version received, such as `champion`; empty if the version was not promoted.
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
    """The test of the version of a study promoted last, or the first test if no version was promoted.

    Attributes:
        opening: The access, with time, trial and decision of the gate.
        auc: AUC with its 95 % confidence interval, from a bootstrap over cases.
        decided: AUC on the groups of cases that the gate compared; differs from `auc` if the gate left out groups.
        others: Other metrics, by name.
        compared: Number of compared groups of cases with benign images, and with malignant images. The gate leaves out
            groups that were used to develop one of the compared models. None if the gate did not decide.
        threshold: Smallest probability that is labelled malignant; nan if unknown.
        predictions: Calibrated predictions of the images of the held-out test set; None if they are not stored.
    """

    __test__ = False  # keeps pytest from collecting this class

    opening: TestAccess
    auc: Measured
    decided: Measured
    others: Mapping[str, Measured]
    compared: tuple[int, int] | None = None
    threshold: float = math.nan
    predictions: Predictions | None = None


@dataclass(frozen=True)
class SealedCases:
    """The size of the held-out test set.

    Attributes:
        n_cases: Number of groups of cases.
        n_benign: Number of groups with benign images.
        n_malignant: Number of groups with malignant images. Groups with both classes also count in `n_benign`.
        n_images: Number of images.
    """

    n_cases: int
    n_benign: int
    n_malignant: int
    n_images: int


@dataclass(frozen=True)
class ExampleImage:
    """An example image with the prediction of the proposed trial.

    Attributes:
        file: The image as a PNG or JPEG file.
        caption: Class, predicted probability, magnification and case, as text.
        correct: Whether the predicted label is right.
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
        task: Task of the study.
        synthetic: Whether the images are synthetic instead of photographs of tissue.
        has_cases: Whether the cases are known.
        invalid: Reasons why the scores are invalid, as sentences; empty if the scores are valid.
        warnings: Warnings, as sentences.
        n_cases: Number of groups of cases in the search: all groups, groups with benign images, groups with malignant
            images.
        sealed: Size of the held-out test set.
        rows: All trials, ordered by number.
        proposed_predictions: Out-of-fold predictions of the proposed trial, of unchanged images; None if no trial is
            complete.
        corrected: Score of the proposed trial, corrected for the search; None if the correction cannot be computed.
        uncorrected: Reason why the correction cannot be computed; empty otherwise.
        openings: All accesses to the held-out test set in this store, for any study, oldest first.
        test: Most recent test of the study that has a result; None if no test has a result.
        images: Examples of the proposed trial, correctly classified images first; may be empty.
        kept_images: Image file with the examples that MLflow stores, used if `images` is empty; may be empty.
        importances: Share of the score's variation that each parameter explains; empty if unknown.
        spread: Half-width of the 95 % interval of each importance over resampled trials; empty if unknown.
        log: Names of parameters on a logarithmic scale.
        space: Name, values and description of each parameter.
        facts: Data, split and settings of the search, by name.
        audit: Lines of the leakage audit.
        made: Time, command and machine of the study, by name.
        versions: Versions of packages, by name.
        learning_curve: Learning curve over cases of the proposed trial; None if there is none.
        no_learning_curve: Reason why there is no learning curve; empty if there is one.
        selection: Sentences that say which trial is the best, which one is proposed and why, and its difference to the
            default parameters.
        robustness: Robustness of the best trials and of the default, by trial number; empty if it was not computed.
        nested: Score of the nested search; None if it was not computed.
        shift_weight: Weight of the shifts in the score (`--score-weight-shift`); 0 if the score is the AUC.
        has_images: Whether the study is of images; otherwise it is of vectors.
    """

    study: str
    data: str
    task: Task
    synthetic: bool
    has_cases: bool
    invalid: Sequence[str]
    warnings: Sequence[str]
    n_cases: tuple[int, int, int]
    sealed: SealedCases
    rows: Sequence[TrialRow]
    proposed_predictions: Predictions | None
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
    learning_curve: LearningCurve | None = None
    no_learning_curve: str = ""
    selection: Sequence[str] = ()
    robustness: Mapping[int, Robustness] = field(default_factory=dict)
    nested: NestedScore | None = None
    shift_weight: float = 0.0
    has_images: bool = True

    @property
    def score_title(self) -> str:
        """Name of the score: AUC, or mixed score if shifts count in it."""
        return score_title(self.shift_weight)

    @property
    def ranked(self) -> list[TrialRow]:
        """Complete trials, best first; trials with equal scores are ordered by number."""
        complete = [row for row in self.rows if row.score is not None]
        return sorted(complete, key=lambda row: (-(row.score or 0.0), row.number))

    @property
    def proposed(self) -> TrialRow:
        """The trial that the study proposes.

        Raises:
            ValueError: If no trial is proposed, because none is complete.
        """
        (row,) = (row for row in self.rows if row.proposed)
        return row

    @property
    def important(self) -> dict[str, tuple[float, float]]:
        """Share and spread of each parameter whose share exceeds its spread, largest share first.

        Empty if the spread is unknown, because a share without its spread may be noise.
        """
        found = {name: (share, self.spread[name]) for name, share in self.importances.items() if name in self.spread}
        kept = {name: pair for name, pair in found.items() if pair[0] > pair[1]}
        return dict(sorted(kept.items(), key=lambda item: -item[1][0]))


def size_of_part(n_cases: int, n_images: int) -> str:
    """Return the size of a part of the data as text, such as `12 cases, 340 images`."""
    return f"{plural(n_cases, 'case')}, {plural(n_images, 'image')}"


def time_in_trials(duration: str, n_trials: int) -> str:
    """Return the time that trials took, and their number, as text, such as `5.9 s, 4 trials`."""
    return f"{duration}, {plural(n_trials, 'trial')}"
