"""A third of the development cases put aside, so that a search can be judged on cases that it did not see.

The sealed test is not touched: the third comes from the cases that a study may search on, and the folds are made of the
other two thirds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bhsearch.data.dataset import Dataset
from bhsearch.data.grouping import units_of_groups
from bhsearch.data.splits import training_weights
from bhsearch.data.stratify import assign_folds, classes_per_group, select_test_groups
from bhsearch.evaluation.metrics import weighted_auc
from bhsearch.study.context import StudyContext

SHARE = 1 / 3


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Cases that no fold holds.

    Attributes:
        index: Their images.
        groups: Group of each. Shape (n_images,).
    """

    index: Dataset
    groups: npt.NDArray[np.int64]

    def auc(self, probability: npt.NDArray[np.float32]) -> float:
        """AUC with every case counting the same. `probability`: shape (n_images,)."""
        weight = training_weights(self.groups, np.ones(len(self.groups), bool))
        return float(weighted_auc(self.index.labels, probability, weight))

    def __str__(self) -> str:
        return f"{len(np.unique(self.groups))} cases, {len(self.groups)} images"


def put_aside(prepared: StudyContext) -> tuple[StudyContext, HeldOut]:
    """Take a third of the development cases, stratified, and deal the others into folds; the same every time."""
    index, split = prepared.index, prepared.split
    units = units_of_groups(index).select(split.development)
    labels = index.labels[split.development]
    aside = np.zeros(len(index), bool)
    aside[split.development] = select_test_groups(
        units.keys, units.strata, classes_per_group(units.number, labels), SHARE
    )[units.number]
    inside = split.development & ~aside
    dealt = units_of_groups(index).select(inside)
    folds = np.full((split.n_repeats, len(index)), -1, np.int8)
    folds[:, inside] = assign_folds(dealt.keys, dealt.strata, split.n_folds, split.n_repeats)[:, dealt.number]
    inner = StudyContext.of(
        prepared.settings,
        index,
        replace(split, development=inside, folds=folds),
        prepared.found,
        prepared.study,
        prepared.regime,
    )
    return inner, HeldOut(index.select(aside), split.groups[aside])
