"""Results by subtype, magnification and case, and the cases with the lowest accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.metrics import fold_scores
from bhsearch.text import plural

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import Predictions
    from bhsearch.evaluation.thresholds import HardLabels
    from bhsearch.tasks.base import Task

COLUMNS = ("subtype", "magnification", "case")
BOTH = "both"  # value of `kind` for images of several classes
UNNAMED = "not named by the data"


@dataclass(frozen=True)
class Subgroup:
    """Results on the images of one subtype, magnification or case.

    Attributes:
        name: Name of the subtype, magnification or case.
        kind: Name of the class of all images, or `BOTH`.
        n_images: Number of images.
        n_cases: Number of groups of cases.
        accuracy: Share of images with the correct predicted label, with equal weight for every group, averaged over
            repeats.
        by_case: Share of images with the correct predicted label in each group, ascending. Length `n_cases`.
        auc: Mean over folds of the case-weighted AUC; None if no fold has both classes.
    """

    name: str
    kind: str
    n_images: int
    n_cases: int
    accuracy: float
    by_case: tuple[float, ...]
    auc: float | None


def subgroup_results(predictions: Predictions, decisions: HardLabels, column: str, task: Task) -> list[Subgroup]:
    """Compute the results of the subgroups that one column defines.

    Args:
        predictions: Predictions to evaluate.
        decisions: Predicted labels of the same images, at cross-fitted or predefined thresholds.
        column: One of `COLUMNS`.
        task: Task that names the classes.

    Returns:
        One subgroup per value of the column. Images without a value are in the subgroup `UNNAMED`, so the list is never
        empty. Subgroups are sorted by class, then by length and text of their names, so that 40X precedes 100X.
    """
    values = getattr(predictions, column)
    correct = (decisions.predicted == predictions.label).mean(axis=0)
    groups = [_subgroup(predictions, correct, str(value) or UNNAMED, values == value, task) for value in set(values)]
    kinds = (*task.class_names, BOTH)
    return sorted(groups, key=lambda group: (kinds.index(group.kind), len(group.name), group.name))


def _subgroup(
    predictions: Predictions,
    correct: npt.NDArray[np.float64],
    name: str,
    rows: npt.NDArray[np.bool_],
    task: Task,
) -> Subgroup:
    chosen = predictions.select(rows)
    by_case = sorted(correct[rows][chosen.group == group].mean() for group in np.unique(chosen.group))
    folds = fold_scores(chosen)
    return Subgroup(
        name=name,
        kind=_kind(chosen.label, task),
        n_images=len(chosen),
        n_cases=len(by_case),
        accuracy=float(np.mean(by_case)),
        by_case=tuple(map(float, by_case)),
        auc=float(np.nanmean(folds)) if np.isfinite(folds).any() else None,
    )


def _kind(label: npt.NDArray[np.int8], task: Task) -> str:
    present = np.unique(label)
    return BOTH if len(present) > 1 else task.class_names[int(present[0])]


@dataclass(frozen=True)
class WorstCase:
    """Case with low accuracy, with its worst image.

    The worst image is the image farthest on the wrong side of its threshold or, if all images are classified correctly,
    the image closest to its threshold.

    Attributes:
        name: Name of the case.
        kind: See `Subgroup`.
        n_images: Number of images.
        accuracy: Share of images with the correct predicted label.
        row: Row of the worst image in the predictions.
        probability: Probability of the positive class for the worst image, averaged over repeats.
        true_class: Name of the true class of the worst image.
        positive_class: Name of the positive class.
    """

    name: str
    kind: str
    n_images: int
    accuracy: float
    row: int
    probability: float
    true_class: str
    positive_class: str

    @property
    def caption(self) -> str:
        """Text with case, true class, probability and accuracy in one line."""
        share = f"{self.accuracy:.0%} of {plural(self.n_images, 'image')} right"
        return f"case {self.name}, {self.true_class}, P({self.positive_class}) {self.probability:.2f}; {share}"


def worst_cases(predictions: Predictions, decisions: HardLabels, task: Task, most: int = 8) -> list[WorstCase]:
    """Return the groups of cases with the lowest accuracy, worst first; the list is never empty.

    Args:
        predictions: Predictions to evaluate.
        decisions: Predicted labels of the same images.
        task: Task that names the classes.
        most: Maximum number of cases, 1 or more.
    """
    correct = (decisions.predicted == predictions.label).mean(axis=0)
    threshold = np.take_along_axis(decisions.threshold, predictions.fold.astype(np.int64), axis=1)
    wrong_by = ((predictions.probability - threshold) * (1 - 2 * predictions.label)).mean(axis=0)
    cases = [
        _worst_case(predictions, np.flatnonzero(predictions.group == group), correct, wrong_by, task)
        for group in np.unique(predictions.group)
    ]
    return sorted(cases, key=lambda case: (case.accuracy, -wrong_by[case.row], case.name))[:most]


def _worst_case(
    predictions: Predictions,
    rows: npt.NDArray[np.intp],
    correct: npt.NDArray[np.float64],
    wrong_by: npt.NDArray[np.float64],
    task: Task,
) -> WorstCase:
    row = int(rows[np.argmax(wrong_by[rows])])
    return WorstCase(
        name=" and ".join(sorted({str(case) for case in predictions.case[rows]} - {""})) or UNNAMED,
        kind=_kind(predictions.label[rows], task),
        n_images=len(rows),
        accuracy=float(correct[rows].mean()),
        row=row,
        probability=float(predictions.probability[:, row].mean()),
        true_class=task.class_names[int(predictions.label[row])],
        positive_class=task.class_names[1],
    )
