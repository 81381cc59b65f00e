"""Results per subtype, magnification and case: where a model is right, and on how little each such number rests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bhsearch.data.dataset import CLASS_NAMES
from bhsearch.evaluation.metrics import fold_scores

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import Predictions
    from bhsearch.evaluation.thresholds import HardLabels

COLUMNS = ("subtype", "magnification", "case")
UNNAMED = "not named by the data"


@dataclass(frozen=True)
class Subgroup:
    """Some of the images: those of one subtype, magnification or case.

    Attributes:
        name: Of the subtype, magnification or case.
        kind: `benign`, `malignant` or `both`: which labels its images have.
        n_images: Images.
        n_cases: Groups of cases.
        right: Share of images called right, every group counting the same, mean over repeats.
        by_case: The same share for each group, ascending. Length `n_cases`.
        auc: Mean over folds of the case-weighted AUC; None where no fold has both classes in it.
    """

    name: str
    kind: str
    n_images: int
    n_cases: int
    right: float
    by_case: tuple[float, ...]
    auc: float | None


def subgroup_results(predictions: Predictions, decisions: HardLabels, column: str) -> list[Subgroup]:
    """Results by one column.

    Args:
        predictions: Of any part of the data.
        decisions: Of the same images: cross-fitted, or made with a threshold that was fixed elsewhere.
        column: One of `COLUMNS`.

    Returns:
        A part for each value, benign ones first, then by length and name, so that 40X comes before 100X. Never empty:
        images without a value are a part called `UNNAMED`.
    """
    values = getattr(predictions, column)
    right = (decisions.predicted == predictions.label).mean(axis=0)
    parts = [_subgroup(predictions, right, str(value) or UNNAMED, values == value) for value in set(values)]
    return sorted(parts, key=lambda part: ((*CLASS_NAMES, "both").index(part.kind), len(part.name), part.name))


def _subgroup(
    predictions: Predictions, right: npt.NDArray[np.float64], name: str, rows: npt.NDArray[np.bool_]
) -> Subgroup:
    chosen = predictions.select(rows)
    by_case = sorted(right[rows][chosen.group == group].mean() for group in np.unique(chosen.group))
    folds = fold_scores(chosen)
    labels = np.unique(chosen.label)
    return Subgroup(
        name=name,
        kind="both" if len(labels) > 1 else CLASS_NAMES[int(labels[0])],
        n_images=len(chosen),
        n_cases=len(by_case),
        right=float(np.mean(by_case)),
        by_case=tuple(map(float, by_case)),
        auc=float(np.nanmean(folds)) if np.isfinite(folds).any() else None,
    )


@dataclass(frozen=True)
class WorstCase:
    """A case on which a model is more often wrong than on others.

    Attributes:
        name: Of the case.
        kind: As in `Subgroup`.
        n_images: Its images.
        right: Share of them called right.
        row: Its worst image, as a row of the predictions: the farthest on the wrong side of its threshold or, where
            none is wrong, the closest call.
        probability: P(malignant) of that image, mean over repeats.
        label: Its true label.
    """

    name: str
    kind: str
    n_images: int
    right: float
    row: int
    probability: float
    label: int

    @property
    def caption(self) -> str:
        """What there is to know of it, in one line."""
        share = f"{self.right:.0%} of {self.n_images} images right"
        return f"case {self.name}, {CLASS_NAMES[self.label]}, P(malignant) {self.probability:.2f}; {share}"


def worst_cases(predictions: Predictions, decisions: HardLabels, most: int = 8) -> list[WorstCase]:
    """The groups of cases with the smallest share of right images, worst first. Never empty.

    Args:
        predictions: Of any part of the data.
        decisions: Of the same images.
        most: Length of the list, 1 or more.
    """
    right = (decisions.predicted == predictions.label).mean(axis=0)
    cut = np.take_along_axis(decisions.threshold, predictions.fold.astype(np.int64), axis=1)
    wrong_by = ((predictions.probability - cut) * (1 - 2 * predictions.label)).mean(axis=0)
    found = [
        _worst_case(predictions, np.flatnonzero(predictions.group == group), right, wrong_by)
        for group in np.unique(predictions.group)
    ]
    return sorted(found, key=lambda worst: (worst.right, -wrong_by[worst.row], worst.name))[:most]


def _worst_case(
    predictions: Predictions,
    rows: npt.NDArray[np.intp],
    right: npt.NDArray[np.float64],
    wrong_by: npt.NDArray[np.float64],
) -> WorstCase:
    row = int(rows[np.argmax(wrong_by[rows])])
    labels = np.unique(predictions.label[rows])
    return WorstCase(
        name=" and ".join(sorted({str(case) for case in predictions.case[rows]} - {""})) or UNNAMED,
        kind="both" if len(labels) > 1 else CLASS_NAMES[int(labels[0])],
        n_images=len(rows),
        right=float(right[rows].mean()),
        row=row,
        probability=float(predictions.probability[:, row].mean()),
        label=int(predictions.label[row]),
    )
