from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from bhsearch.data.nested_subsets import in_one_fold, nested_subsets
from tests.evaluation.simulated import reorder, simulate

SHARES = (0.25, 0.35, 0.5, 0.7)


def subsets_of(predictions, seed=0, shares=SHARES):
    return nested_subsets(predictions.group, predictions.stratum, predictions.label, predictions.fold[0], shares, seed)


@pytest.mark.parametrize("seed", range(5))
def test_subsets_are_nested_and_keep_whole_groups_and_both_classes_in_every_fold(seed):
    predictions = simulate(n_cases=90, seed=seed, largest=5)
    found = subsets_of(predictions, seed)
    assert tuple(found) == SHARES
    for smaller, larger in pairwise(found.values()):
        assert (larger | smaller == larger).all()
        assert smaller.sum() < larger.sum()
    for mask in found.values():
        assert not set(predictions.group[mask]) & set(predictions.group[~mask])
        for fold in range(5):
            assert set(predictions.label[mask & (predictions.fold[0] == fold)]) == {0, 1}


def test_a_subset_has_its_share_of_each_class_spread_over_the_folds():
    predictions = simulate(n_cases=200, largest=3)
    for share, mask in subsets_of(predictions).items():
        for label in (0, 1):
            of_class = predictions.label == label
            n_all, n_kept = (len(set(predictions.group[rows])) for rows in (of_class, of_class & mask))
            assert n_kept == round(share * n_all)
            by_fold = [len(set(predictions.group[of_class & mask & (predictions.fold[0] == k)])) for k in range(5)]
            assert max(by_fold) - min(by_fold) <= 1


def test_subsets_depend_on_the_seed_and_not_on_the_order_of_the_images():
    predictions = simulate(n_cases=90, largest=5)
    order = np.random.default_rng(1).permutation(len(predictions))
    for one, other in zip(
        subsets_of(predictions).values(), subsets_of(reorder(predictions, order)).values(), strict=True
    ):
        assert (one[order] == other).all()
    assert (subsets_of(predictions, 0)[0.5] != subsets_of(predictions, 1)[0.5]).any()


def test_sizes_that_few_cases_do_not_allow_are_left_out():
    """With five folds, 10 cases of a class have at least one in every fold only from the share 0.5."""
    predictions = simulate(n_cases=26, largest=3)
    sizes = [
        len(set(predictions.group[mask])) for mask in subsets_of(predictions, shares=(0.1, 0.2, 0.3, 0.99)).values()
    ]
    assert sizes == sorted(set(sizes))
    assert max(sizes) < 26


def test_a_group_in_several_folds_is_seen():
    predictions = simulate()
    assert in_one_fold(predictions.group, predictions.fold[0])
    rows = np.flatnonzero(predictions.group == predictions.group[0])
    torn = predictions.fold[0].copy()
    torn[rows[0]] = (torn[rows[0]] + 1) % 5
    assert not in_one_fold(predictions.group, torn)
