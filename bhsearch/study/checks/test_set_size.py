"""Warn before the first trial if the sealed test set is too small for the promotion gate.

The promotion gate decides on the sealed test images whether a newly registered model replaces the current champion. It
requires `FEWEST_GROUPS` groups of each class.
"""

from __future__ import annotations

import numpy as np

from bhsearch.data.dataset import Dataset
from bhsearch.data.splits import Split, make_split
from bhsearch.errors import InputError
from bhsearch.evaluation.promotion import FEWEST_GROUPS, enough
from bhsearch.text import plural

_FRACTIONS = tuple(hundredth / 100 for hundredth in range(10, 51, 5))


def gate_size_warnings(index: Dataset, split: Split) -> list[str]:
    """Return a warning with a remedy if the sealed test set has fewer than `FEWEST_GROUPS` groups of a class.

    Args:
        index: The whole data set.
        split: Split of the data set.

    Returns:
        At most one sentence; empty if there are `FEWEST_GROUPS` groups of each class or more, or if the split rules
        out a promotion anyway.
    """
    held = sealed_groups(index, split)
    if enough(*held) or not split.promotable:
        return []
    fraction = next((each for each in _FRACTIONS if _would_do(index, split, each)), None)
    option = "--ignore-predefined-split " if split.sealed_by == "part" else ""
    what_helps = (
        f"{option}--test-fraction {fraction:g} would do; it makes another study."
        if fraction is not None
        else "No --test-fraction does with these folds: it takes more cases, or fewer folds."
    )
    return [
        f"The sealed test has {plural(held[0], 'case')} with benign and {held[1]} with malignant images, and the "
        f"gate of registering needs {FEWEST_GROUPS} of each: it would promote nothing. {what_helps}"
    ]


def sealed_groups(index: Dataset, split: Split) -> tuple[int, int]:
    """Return the number of sealed groups that contain benign images, and of those that contain malignant images."""
    benign, malignant = (len(np.unique(split.groups[split.test & (index.labels == label)])) for label in (0, 1))
    return benign, malignant


def _would_do(index: Dataset, split: Split, fraction: float) -> bool:
    if split.sealed_by == "fraction" and fraction <= split.test_fraction:
        return False
    try:
        other = make_split(
            index,
            test_fraction=fraction,
            n_folds=split.n_folds,
            n_repeats=split.n_repeats,
            group_by=split.group_by,
            magnification=split.magnification,
            ignore_predefined_split=split.sealed_by == "part",
        )
    except InputError:  # too few cases remain for the folds
        return False
    return enough(*sealed_groups(index, other))
