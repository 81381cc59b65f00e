"""Strata, test groups and folds, computed from keys and labels without randomness and independent of row order.

A unit is a set of images that must stay in one fold: a group of cases, a slide or a single image.
"""

from __future__ import annotations

import hashlib

import numpy as np

from bhsearch.data.arrays import Bools, Folds, Ints

SEPARATOR = "\x1f"

# With fewer units, use halves instead of quartiles: a quartile would have fewer than four units, and one test unit per
# quartile would exceed the usual test fraction.
_FEWEST_FOR_QUARTILES = 16
# Maximum number of attempts to find a division that differs from those of earlier repeats. One attempt is usually
# enough unless there are very few units.
_ATTEMPTS = 200


def strata_of(unit: Ints, labels: Folds) -> Ints:
    """Compute the stratum of each unit from the labels of its images, independent of the number of images.

    The stratum of a unit is the quartile of its share of malignant images among all units. Units with equal shares are
    in the same stratum. If every unit has a single label, the strata are the two labels.

    Args:
        unit: Unit number per image, 0 to n_units - 1, each with at least one image. Shape (n_images,).
        labels: 0 benign, 1 malignant. Shape (n_images,).

    Returns:
        Stratum per unit, numbered from 0 without gaps, from benign to malignant. Shape (n_units,).
    """
    if not len(unit):
        return np.zeros(0, dtype=np.int64)
    share = np.bincount(unit, weights=labels) / np.bincount(unit)
    probabilities = [0.25, 0.5, 0.75] if len(share) >= _FEWEST_FOR_QUARTILES else [0.5]
    edges = np.quantile(share, probabilities, method="inverted_cdf")
    below_highest = share[share < share.max()]
    if len(below_highest):
        # If most units are entirely malignant, every quartile is 1, and the other units would not be separated.
        edges[0] = min(edges[0], below_highest.max())
    _, stratum = np.unique(np.searchsorted(edges, share, side="left"), return_inverse=True)
    return stratum.astype(np.int64)


def select_test_groups(keys: list[str], strata: Ints, carriers: Bools, fraction: float) -> Bools:
    """Select the units of the test set: the first units of each stratum in a pseudorandom order of the keys.

    Args:
        keys: Unique key per unit. Length n_units.
        strata: Stratum per unit. Shape (n_units,).
        carriers: Whether each unit has benign images and whether it has malignant images. Shape (n_units, 2).
        fraction: Share of each stratum to select, 0 to 1. The number of units is rounded, but at least one, except that
            one unit of each stratum is always left.

    Returns:
        Mask of the selected units. The selection contains both labels if the data do. Shape (n_units,).
    """
    order = _ordered(keys, "seal")
    sealed = np.zeros(len(keys), dtype=bool)
    for stratum in np.unique(strata):
        members = order[strata[order] == stratum]
        sealed[members[: min(max(1, round(fraction * len(members))), len(members) - 1)]] = True
    for carrier in carriers.T:
        if not carrier[sealed].any():  # only if each stratum with this label consists of a single unit
            sealed[order[carrier[order]][:1]] = True
    return sealed


def assign_folds(keys: list[str], strata: Ints, n_folds: int, n_repeats: int) -> Folds:
    """Assign units to folds in turn, stratum by stratum.

    The first fold used for a stratum follows the last fold used for the previous stratum, so fold sizes differ by at
    most one unit, both within each stratum and overall. The folds of a repeat do not depend on `n_repeats`.

    Args:
        keys: Unique key per unit. Length n_units.
        strata: Stratum per unit. Shape (n_units,).
        n_folds: 2 to 127.
        n_repeats: Number of different divisions to find.

    Returns:
        Fold of each unit in each repeat; fewer than `n_repeats` rows if no further different division was found. Shape
        (n_found, n_units).
    """
    divisions: list[Folds] = []
    seen: set[bytes] = set()
    for repeat in range(n_repeats):
        for attempt in range(_ATTEMPTS):
            order = _ordered(keys, f"folds {repeat} {attempt}")
            order = order[np.argsort(strata[order], kind="stable")]
            folds = np.empty(len(keys), dtype=np.int8)
            folds[order] = np.arange(len(keys)) % n_folds
            division = _numbered_by_first_unit(folds).tobytes()
            if division not in seen:
                seen.add(division)
                divisions.append(folds)
                break
        else:
            break
    return np.array(divisions, dtype=np.int8).reshape(len(divisions), len(keys))


def classes_per_group(unit: Ints, labels: Folds) -> Bools:
    """Return whether each unit has benign images and whether it has malignant images. Shape (n_units, 2)."""
    return np.stack([np.bincount(unit, weights=labels == label) > 0 for label in (0, 1)], axis=1)


def groups_per_fold(folds: Folds, groups: Ints, labels: Folds, n_folds: int) -> Ints:
    """Count the groups with images of each class in each fold.

    Args:
        folds: Fold per image in each repeat. Shape (n_repeats, n_images).
        groups: Group number per image, from 0. Shape (n_images,).
        labels: 0 benign, 1 malignant. Shape (n_images,).
        n_folds: Folds per repeat.

    Returns:
        Number of groups per repeat, fold and class. Shape (n_repeats, n_folds, 2).
    """
    counts = np.zeros((len(folds), n_folds, 2), dtype=np.int64)
    for repeat, fold in enumerate(folds):
        for label in (0, 1):
            pairs = np.unique(groups[labels == label] * n_folds + fold[labels == label])
            counts[repeat, :, label] = np.bincount(pairs % n_folds, minlength=n_folds)
    return counts


def in_several_folds(keys: Ints, folds: Folds) -> Bools:
    """Return the mask of images whose key occurs in several folds of the same repeat.

    Args:
        keys: Number of each image's unit, from 0. Shape (n_images,).
        folds: Fold per image in each repeat. Shape (n_repeats, n_images).

    Returns:
        Mask of the images. Shape (n_images,).
    """
    n_keys = int(keys.max(initial=-1)) + 1
    found = np.zeros(n_keys, dtype=bool)
    for fold in folds:
        low, high = np.full(n_keys, 127, dtype=np.int8), np.full(n_keys, -1, dtype=np.int8)
        np.minimum.at(low, keys, fold)
        np.maximum.at(high, keys, fold)
        found |= low < high
    mask: Bools = found[keys]
    return mask


def _ordered(keys: list[str], salt: str) -> Ints:
    """Return the indices that sort the keys by a salted hash: a reproducible order that differs between salts."""
    start = hashlib.sha256(f"bhsearch 1 {salt}{SEPARATOR}".encode())

    def rank(position: int) -> bytes:
        digest = start.copy()
        digest.update(keys[position].encode())
        return digest.digest()

    return np.array(sorted(range(len(keys)), key=rank), dtype=np.int64)


def _numbered_by_first_unit(folds: Folds) -> Folds:
    """Renumber folds in the order of their first units, so that equal divisions have equal arrays."""
    _, first, which = np.unique(folds, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first)).astype(np.int8)[which]
