"""Tables of the robustness of trials under shifts of the validation images, for terminal, report and model card."""

from __future__ import annotations

from collections.abc import Mapping

from bhsearch.evaluation.robustness import ROBUSTNESS_NOTE, Robustness
from bhsearch.models.augmentation.shifts import SHIFTS
from bhsearch.reporting import html

TITLE = "Robustness under shifts"
# Changes are of AUC and of balanced accuracy.
TRIAL_HEAD: tuple[str, ...] = ("trial", "worst shift", "AUC", "worst change", "mean", "bal. acc.", "labels")
SHIFT_HEAD: tuple[str, ...] = ("shift", "AUC", "change", "bal. acc.", "labels")
_COLUMNS_NOTE = (
    "Worst and mean change of the AUC over the shifts, worst change of the balanced accuracy, and share of the labels "
    "that change."
)
NOT_COMPUTED = "Not computed; the command of the study with --robustness computes it."


def columns_note(shift_weight: float) -> str:
    """Return sentences on the columns of the tables.

    Args:
        shift_weight: Weight of the shifts in the score of the study, from 0 to 1.
    """
    if not shift_weight:
        return f"{_COLUMNS_NOTE} It chooses nothing."
    return f"{_COLUMNS_NOTE} The mean AUC under these shifts counts in the mixed score that chose the trial."


def trial_rows(found: Mapping[int, Robustness]) -> list[tuple[str, ...]]:
    """Return one row per trial with the columns `TRIAL_HEAD`.

    Args:
        found: Robustness by trial number.
    """
    return [
        (
            f"{number} default" if row.is_default else str(number),
            title_of(row.worst_shift),
            f"{row.auc:.4f}",
            change_text(row.worst_auc_change),
            change_text(row.mean_auc_change),
            change_text(row.worst_balanced_accuracy_change),
            f"{row.labels_changed:.0%}",
        )
        for number, row in found.items()
    ]


def shift_rows(found: Robustness) -> list[tuple[str, ...]]:
    """Return one row per shift with the columns `SHIFT_HEAD`."""
    return [
        (
            title_of(name),
            f"{effect.auc:.4f}",
            change_text(effect.auc_change),
            change_text(effect.balanced_accuracy_change),
            f"{effect.labels_changed:.0%}",
        )
        for name, effect in found.shifts.items()
    ]


def change_text(change: float) -> str:
    """Return a change with its sign and three decimals; a change that rounds to 0 is `+0.000`."""
    return f"{round(change, 3) + 0.0:+.3f}"


def title_of(shift: str) -> str:
    """Return the title of a shift; its name if another version of bhsearch defined it."""
    return SHIFTS[shift].title if shift in SHIFTS else shift


def card(found: Mapping[int, Robustness], best: int, shift_weight: float = 0.0) -> str:
    """Return an HTML card with the robustness of trials, and with the effect of each shift on the best trial.

    Args:
        found: Robustness by trial number; may be empty.
        best: Number of the best trial.
        shift_weight: Weight of the shifts in the score of the study, from 0 to 1.
    """
    if not found:
        return html.section(TITLE, lead=NOT_COMPUTED)
    parts = [html.table(TRIAL_HEAD, trial_rows(found), len(TRIAL_HEAD) - 2, "robustness of the best trials")]
    for number, row in found.items():
        title = f"<h3>Trial {number}{', the best' if number == best else ''}</h3>"
        table = html.table(SHIFT_HEAD, shift_rows(row), len(SHIFT_HEAD) - 1, f"effect of each shift on trial {number}")
        parts.append(title + table)
    if best not in found:
        parts.append(
            html.paragraphs(f"Trial {best}, now the best, is missing: repeat --robustness.", kind="small soft")
        )
    return html.section(TITLE, *parts, lead=f"{ROBUSTNESS_NOTE} {columns_note(shift_weight)}")
