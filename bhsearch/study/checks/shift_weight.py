"""Check that shifts can count in the score of a study (`--score-weight-shift`), and say in the plan what they cost."""

from __future__ import annotations

from bhsearch.config import Settings
from bhsearch.errors import SettingsError
from bhsearch.evaluation.mixed_score import formula
from bhsearch.models import backend
from bhsearch.models.augmentation.shifts import SHIFTS
from bhsearch.study.context import FINETUNE, StudyContext


def check_shift_weight(settings: Settings) -> None:
    """Check that shifts can count in the score with some settings.

    Raises:
        SettingsError: If `--score-weight-shift` is out of range, or contradicts another option.
    """
    weight = settings.score_weight_shift
    if not 0 <= weight <= 1:
        raise SettingsError(f"--score-weight-shift must be from 0 to 1, but got {weight:g}.")
    if not weight:
        return
    if settings.regime == FINETUNE:
        raise SettingsError(
            f"--score-weight-shift {weight:g} requires --regime frozen or auto, but got --regime {settings.regime}: "
            "fine-tuned networks are scored on unchanged images only."
        )
    if settings.regime == "auto" and backend.gpu_files():
        raise SettingsError(
            f"--score-weight-shift {weight:g} requires --regime frozen on a machine with a GPU: --regime auto also "
            "fine-tunes networks there, which are scored on unchanged images only."
        )


def plan_row(context: StudyContext) -> str:
    """Return the description of the mixed score for the plan; empty if no shift counts in the score."""
    weight = context.settings.score_weight_shift
    if not weight:
        return ""
    return (
        f"{formula(weight)}; {len(SHIFTS)} further feature passes over {len(context.images):,} images for each "
        "backbone and each view that a trial averages over"
    )
