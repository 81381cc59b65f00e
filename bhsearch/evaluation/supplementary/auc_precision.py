"""What a number of test cases can show: standard error of the AUC, smallest detectable difference, cases needed."""

from __future__ import annotations

import math

from bhsearch.text import plural

HALF_WIDTH = 0.05  # half-width of the 95 % interval for which the number of cases is stated
PLANNED_AUC = 0.9  # assumed before there is a result
_CORRELATION = 0.5  # assumed correlation of the AUCs of two models on the same cases
_Z_INTERVAL, _Z_POWER = 1.959963984540054, 0.8416212335729143  # normal quantiles of 0.975 and 0.8
_AUC_RANGE = (0.5, 0.99)  # outside, the approximation gives standard errors near 0
_MOST_CASES = 1_000_000


def auc_standard_error(auc: float, n_negative: int, n_positive: int) -> float:
    """Return the approximate standard error of an AUC.

    Args:
        auc: AUC, 0 to 1.
        n_negative: Number of cases of the negative class, 1 or more.
        n_positive: Number of cases of the positive class, 1 or more.

    Source:
        Hanley and McNeil, "The meaning and use of the area under a receiver operating characteristic (ROC) curve",
        Radiology 143, 1982; exact for exponentially distributed scores.
    """
    two_positive, two_negative = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (
        auc * (1 - auc) + (n_positive - 1) * (two_positive - auc**2) + (n_negative - 1) * (two_negative - auc**2)
    ) / (n_negative * n_positive)
    return math.sqrt(max(variance, 0.0))


def smallest_difference(standard_error: float) -> float:
    """Return the difference of two AUCs on the same cases that a two-sided test at 5 % finds with a power of 80 %.

    Args:
        standard_error: Standard error of each AUC. The two are assumed to have a correlation of 0.5.
    """
    return (_Z_INTERVAL + _Z_POWER) * standard_error * math.sqrt(2 * (1 - _CORRELATION))


def cases_needed(auc: float, share_positive: float, half_width: float = HALF_WIDTH) -> int:
    """Return the smallest number of cases for which the 95 % interval of an AUC has at most a half-width.

    Args:
        auc: AUC, 0 to 1.
        share_positive: Share of the cases in the positive class, above 0 and below 1.
        half_width: Half-width of the interval, above 0.
    """

    def suffices(n_cases: int) -> bool:
        n_positive = min(max(round(n_cases * share_positive), 1), n_cases - 1)
        return _Z_INTERVAL * auc_standard_error(auc, n_cases - n_positive, n_positive) <= half_width

    low, high = 2, _MOST_CASES
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle + 1, high)
    return low


def what_cases_show(n_negative: int, n_positive: int, auc: float) -> str:
    """Return a sentence on what a number of test cases can show; empty if a class has no cases.

    Args:
        n_negative: Number of test cases with images of the negative class.
        n_positive: Number of test cases with images of the positive class.
        auc: AUC of the model, or an assumed AUC; limited to 0.5 to 0.99.
    """
    if not n_negative or not n_positive:
        return ""
    auc = min(max(auc, _AUC_RANGE[0]), _AUC_RANGE[1])
    error = auc_standard_error(auc, n_negative, n_positive)
    needed = cases_needed(auc, n_positive / (n_negative + n_positive))
    return (
        f"at an AUC of {auc:.2f}, a standard error of {error:.3f}; the smallest difference to another model found with "
        f"80 % power is {smallest_difference(error):.2f}; a 95 % interval of ±{HALF_WIDTH:g} needs about "
        f"{plural(needed, 'case')} (approximation of Hanley and McNeil, correlation {_CORRELATION:g} of two models)"
    )
