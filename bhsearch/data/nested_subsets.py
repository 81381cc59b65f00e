"""Nested subsets of the groups of a data set, stratified by fold and stratum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bhsearch.data.arrays import Bools, Folds, Ints


def in_one_fold(group: Ints, fold: Folds) -> bool:
    """Return whether all images of each group are in the same fold.

    Args:
        group: Group number of each image. Shape (n_images,).
        fold: Fold of each image. Shape (n_images,).
    """
    pairs = np.unique(np.stack([group, fold.astype(np.int64)], axis=1), axis=0)
    return len(pairs) == len(np.unique(group))


def nested_subsets(
    group: Ints, stratum: Ints, label: Folds, fold: Folds, shares: Sequence[float], seed: int
) -> dict[float, Bools]:
    """Draw nested random subsets of whole groups, each with about the same share of every fold and stratum.

    The groups of a stratum are put into one random order that takes a group of each fold in turn, and a subset is a
    prefix of the order of each stratum. A subset has at least one group of a stratum per fold, as far as there are
    groups.

    Args:
        group: Group number of each image. Shape (n_images,).
        stratum: Stratum of each image's group. Shape (n_images,).
        label: Class of each image, 0 or 1. Shape (n_images,).
        fold: Validation fold of each image; the images of a group are in one fold. Shape (n_images,).
        shares: Share of the groups in each subset, above 0 and below 1, in ascending order.
        seed: Random seed.

    Returns:
        Mask of the images of each subset by its share; each subset contains the previous one. Subsets that lack a class
        in a fold are left out, and so are subsets of the same size as the previous one or with all groups. Each of
        shape (n_images,).
    """
    groups, first, number = np.unique(group, return_index=True, return_inverse=True)
    fold_of, stratum_of = fold[first], stratum[first]
    n_folds = int(fold.max()) + 1
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(groups))
    rank = np.empty(len(groups))
    for number_of_fold in range(n_folds):
        for value in np.unique(stratum_of):
            members = shuffled[(fold_of[shuffled] == number_of_fold) & (stratum_of[shuffled] == value)]
            rank[members] = np.arange(len(members))
    turn = rank + random.random(len(groups))  # the k-th groups of all folds come before any (k + 1)-th group
    masks: dict[float, Bools] = {}
    largest = 0
    for share in shares:
        chosen = np.zeros(len(groups), dtype=bool)
        for value in np.unique(stratum_of):
            members = np.flatnonzero(stratum_of == value)
            n_chosen = min(max(round(share * len(members)), n_folds), len(members))
            chosen[members[np.argsort(turn[members])[:n_chosen]]] = True
        mask = chosen[number]
        has_classes = all((mask & (fold == k) & (label == c)).any() for k in range(n_folds) for c in (0, 1))
        if largest < chosen.sum() < len(groups) and has_classes:
            masks[share], largest = mask, int(chosen.sum())
    return masks
