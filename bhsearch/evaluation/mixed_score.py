"""Words for the score of a study: the AUC, or a mixed score in which shifts of the validation images count.

With a weight W of the shifts (`--score-weight-shift`), the score of a trial is (1 - W) * AUC + W * mean AUC under
`SHIFTS`, each case-weighted, out of fold, and a mean over folds. `metrics.score` computes it.
"""

from __future__ import annotations

from bhsearch.models.augmentation.shifts import SHIFTS

AUC_TITLE, MIXED_TITLE = "AUC", "mixed score"


def score_title(shift_weight: float) -> str:
    """Return the name of the score.

    Args:
        shift_weight: Weight of the shifts in the score, from 0 to 1.
    """
    return MIXED_TITLE if shift_weight else AUC_TITLE


def score_axis(shift_weight: float) -> str:
    """Return the name of the score for the axis of a figure; see `score_title`."""
    return MIXED_TITLE if shift_weight else "ROC AUC"


def formula(shift_weight: float) -> str:
    """Return the formula of the mixed score as text; empty if no shift counts in the score."""
    if not shift_weight:
        return ""
    return f"{1 - shift_weight:.6g} x AUC + {shift_weight:.6g} x mean AUC under {len(SHIFTS)} shifts"


def definition(shift_weight: float) -> str:
    """Return a sentence that defines the mixed score; empty if no shift counts in the score."""
    if not shift_weight:
        return ""
    names = ", ".join(shift.title for shift in SHIFTS.values())
    return f"The mixed score is {formula(shift_weight)} of the validation images ({names}); AUC is of unchanged images."
