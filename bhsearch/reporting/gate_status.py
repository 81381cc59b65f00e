"""Status of a study at the promotion gate, as shown on the first screen of a report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bhsearch.evaluation.promotion import FEWEST_GROUPS, few_cases_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhsearch.reporting.report_data import StudyReport, TestSummary

INVALID, UNTESTED, UNFINISHED = "invalid", "untested", "unfinished"
FEW, REFUSED, FORCED, PROMOTED = "few", "refused", "forced", "promoted"


@dataclass(frozen=True)
class GateStatus:
    """The status of a study at the promotion gate.

    Attributes:
        kind: One of the status constants of this module, such as `UNTESTED`.
        badge: Status in a few words.
        claim: Claim that the result supports, in one sentence.
        reasons: Reasons given by the gate, or by the user who overruled it.
    """

    kind: str
    badge: str
    claim: str
    reasons: Sequence[str] = ()


def gate_status(report: StudyReport) -> GateStatus:
    """Return the status of a study at the promotion gate.

    The claim never goes beyond the decision of the gate. If a class has fewer than `FEWEST_GROUPS` sealed groups of
    cases, the claim says that nothing can be decided.
    """
    if is_invalid(report):
        reasons = [report.test.opening.reason] if report.test is not None and report.test.opening.reason else []
        return GateStatus(
            INVALID, "Not a result", "Expect less on new cases; nothing here says how much less.", reasons
        )
    if report.test is None:
        return _untested(report)
    return _tested(report.test)


def is_invalid(report: StudyReport) -> bool:
    """Return whether the headline number is invalid.

    Leaking folds invalidate the scores of the search, but not a sealed test whose cases are known.
    """
    return bool(report.invalid) and (not leads_with_test(report) or not report.has_cases)


def leads_with_test(report: StudyReport) -> bool:
    """Return whether the sealed test is the headline of the report.

    With fewer than `FEWEST_GROUPS` sealed groups of cases of a class, the corrected score is, if there is one.
    """
    return report.test is not None and not few_cases(report)


def few_cases(report: StudyReport) -> str:
    """Return the sentence shown with a sealed test that is not the headline; empty if it is or would be."""
    if report.corrected is None:
        return ""
    return few_cases_note(report.sealed.n_benign, report.sealed.n_malignant)


def counted(n_benign: int, n_malignant: int) -> str:
    """Return numbers of cases by class as text, such as `6 benign and 9 malignant cases`."""
    return f"{n_benign} benign and {n_malignant} malignant {'case' if n_benign + n_malignant == 1 else 'cases'}"


def _untested(report: StudyReport) -> GateStatus:
    sealed = report.sealed
    held = counted(sealed.n_benign, sealed.n_malignant)
    failed = [opening for opening in report.openings if opening.study == report.study and opening.auc is None]
    if failed:
        claim = "The sealed cases were opened, but registering failed before there was a result."
        reasons = [failed[-1].reason] if failed[-1].reason else []
        return GateStatus(UNFINISHED, "Opened without a result", claim, reasons)
    if min(sealed.n_benign, sealed.n_malignant) < FEWEST_GROUPS:
        reason = (
            f"It needs {FEWEST_GROUPS} benign and {FEWEST_GROUPS} malignant cases, but {held} are sealed: it would "
            "refuse any model. More cases, or a larger --test-fraction in a new study, would help."
        )
        return GateStatus(FEW, "Not registered yet", "Too few sealed cases to decide anything.", [reason])
    return GateStatus(UNTESTED, "Not registered yet", f"Not tested yet: {held} are sealed until a model is registered.")


def _tested(test: TestSummary) -> GateStatus:
    opening = test.opening
    reasons = [opening.reason] if opening.reason else []
    if not opening.verdict:
        claim = "The sealed cases were tested, but registering failed before the gate decided."
        return GateStatus(UNFINISHED, "The gate did not decide", claim, reasons)
    if opening.verdict == "passed":
        badge = f"Promoted to {opening.alias} by the gate" if opening.alias else "Passed the gate"
        return GateStatus(PROMOTED, badge, _claim(test), reasons)
    few = test.compared is None or min(test.compared) < FEWEST_GROUPS
    claim = "Too few sealed cases to decide anything." if few else _claim(test)
    if opening.forced:
        why = f"Why it was promoted all the same: {opening.forced}"
        badge = f"Refused by the gate, promoted to {opening.alias or 'champion'} by force"
        return GateStatus(FORCED, badge, claim, [*reasons, why])
    badge = "Refused by the gate: too few sealed cases" if few else "Refused by the gate"
    return GateStatus(FEW if few else REFUSED, badge, claim, reasons)


def _claim(test: TestSummary) -> str:
    """Return a sentence that compares the interval used by the gate with 0.5, the AUC of guessing."""
    low, high = test.decided.low, test.decided.high
    if not math.isfinite(low) or not math.isfinite(high):
        return "Without an interval nothing can be said of how far the number could be off."
    if low > 0.5:
        return "Better than guessing: the 95 % interval lies above 0.5."
    if high < 0.5:
        return "Worse than guessing: the 95 % interval lies below 0.5."
    return "It could be guessing: the 95 % interval includes 0.5."
