"""Units: what a split must not tear, with a key that is the same wherever the files lie and in whatever order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bhsearch.data.index import CLASS_NAMES, Index
from bhsearch.data.layouts.naming import PARTS, TEST, VALIDATION, shown, spelling_key
from bhsearch.data.stratify import SEPARATOR, Bools, Folds, Ints, strata_of
from bhsearch.errors import DataError, SettingsError
from bhsearch.text import listed


@dataclass(frozen=True, eq=False)
class SplitUnits:
    """Some images of an index, and the units that they make up.

    Attributes:
        number: Unit per image, 0 to n_units - 1. Shape (n_images,).
        keys: Key per unit, all different. Length n_units.
        strata: Stratum per unit. Shape (n_units,).
    """

    number: Ints
    keys: list[str]
    strata: Ints

    def select(self, rows: Bools) -> SplitUnits:
        """The units of some images only; they keep their keys and strata. `rows` is a mask of shape (n_images,)."""
        present, number = np.unique(self.number[rows], return_inverse=True)
        return SplitUnits(number.astype(np.int64), [self.keys[unit] for unit in present], self.strata[present])


def case_keys(index: Index) -> npt.NDArray[np.object_]:
    """Case per image; where the data set does not know its cases, the path of an image without one. Shape (n_images,).

    Raises:
        DataError: If the data set claims to know its cases, and an image has none.
    """
    cases, paths = index.column("case"), index.column("path")
    unknown = cases == ""
    if index.has_cases and unknown.any():
        raise DataError(f"every image needs a case, but these have none:\n{listed(paths[unknown].tolist())}")
    return np.where(unknown, paths, cases)


def units_of_groups(index: Index) -> SplitUnits:
    """The groups of a whole data set; their key is the sorted keys of their cases, joined.

    Raises:
        DataError: If a class has no image, or an image no case.
    """
    missing = [name for label, name in enumerate(CLASS_NAMES) if not (index.labels == label).any()]
    if missing:
        raise DataError(f"benign and malignant images are both needed, but there is no {' and no '.join(missing)} one.")
    cases = case_keys(index)
    groups = merge_groups(cases, index.column("pixels_digest"), by_spelling=index.has_cases)
    members: list[set[str]] = [set() for _ in range(int(groups.max()) + 1)]
    for group, case in zip(groups, cases, strict=True):
        members[group].add(case)
    keys = [SEPARATOR.join(sorted(names)) for names in members]
    return SplitUnits(groups, keys, strata_of(groups, index.labels))


def units_of_slides(index: Index) -> SplitUnits:
    """The slides of an index. Their strata are made from what the slides themselves hold.

    Raises:
        SettingsError: If an image's slide is not known.
    """
    slides = index.column("slide")
    n_unknown = int(np.sum(slides == ""))
    if n_unknown:
        raise SettingsError(
            f"--group-by slide needs the slide of every image, but {n_unknown:,} of {len(index):,} images have none. "
            "Use --group-by case."
        )
    # With the case, since two cases may both call a slide "1".
    return _named([SEPARATOR.join(pair) for pair in zip(case_keys(index), slides, strict=True)], index.labels)


def units_of_images(index: Index) -> SplitUnits:
    """Every image of an index on its own."""
    return _named(index.column("path").tolist(), index.labels)


def sealed_part(index: Index) -> str:
    """The part of the data set that becomes the sealed test: `test`, else `validation`; empty if it has none."""
    present = set(index.column("part"))
    return next((part for part in (TEST, VALIDATION) if part in present), "")


def part_as_test(index: Index, groups: SplitUnits) -> Bools:
    """Mask of the images in `sealed_part`, if it can be a test. Shape (n_images,).

    Raises:
        DataError: If a group is on both sides.
    """
    part = sealed_part(index)
    inside: Bools = index.column("part") == part
    n_inside = np.bincount(groups.number[inside], minlength=len(groups.keys))
    n_outside = np.bincount(groups.number[~inside], minlength=len(groups.keys))
    shared = np.flatnonzero((n_inside > 0) & (n_outside > 0))
    if len(shared):
        others = " and ".join(name for name in PARTS if name != part and (index.column("part") == name).any())
        names = [
            f"{' = '.join(map(shown, groups.keys[group].split(SEPARATOR)))}: {n_outside[group]:,} images in {others}, "
            f"{n_inside[group]:,} in {part}"
            for group in shared
        ]
        raise DataError(
            f"{others} and {part} must have no case and no picture in common, but they share {len(shared):,} (cases "
            f"that have a picture in common, or differ in spelling only, are joined by =):\n{listed(names)}\n"
            "Move each to one side, or make a new division by case: --resplit."
        )
    return inside


def _named(names: list[str], labels: Folds) -> SplitUnits:
    keys, number = np.unique(np.array(names, dtype=object), return_inverse=True)
    number = number.astype(np.int64)
    return SplitUnits(number, keys.tolist(), strata_of(number, labels))


def merge_groups(
    case: npt.NDArray[np.object_], pixels_digest: npt.NDArray[np.object_], *, by_spelling: bool = False
) -> npt.NDArray[np.int64]:
    """Number the groups of a data set: cases linked by pixel-identical images, directly or through other cases.

    Args:
        case: Case key per image. Shape (n_images,).
        pixels_digest: Digest of the decoded pixels per image. Shape (n_images,).
        by_spelling: Whether cases are also linked whose names are spellings of one name (`naming.spelling_key`), since
            they may be one patient. Not for keys that are paths.

    Returns:
        Group number per image, 0 to n_groups - 1, counted in the order of each group's smallest case key. It depends
        on which images there are, never on their order. Shape (n_images,).

    Raises:
        DataError: If the two arrays differ in length.
    """
    if len(case) != len(pixels_digest):
        raise DataError(f"every image needs a case and a digest, but got {len(case)} cases and {len(pixels_digest)}.")
    keys, case_number = np.unique(np.asarray(case, dtype=str), return_inverse=True)
    parent = list(range(len(keys)))

    def root_of(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    first_with: dict[str, int] = {}
    for node, digest in zip(case_number.tolist(), pixels_digest.tolist(), strict=True):
        one, other = root_of(node), root_of(first_with.setdefault(digest, node))
        # `keys` is sorted, so the smaller number is the smaller key: it stays the root and names the group.
        parent[max(one, other)] = min(one, other)
    first_spelt: dict[str, int] = {}
    for node, key in enumerate(keys.tolist()) if by_spelling else ():
        one, other = root_of(node), root_of(first_spelt.setdefault(spelling_key(key), node))
        parent[max(one, other)] = min(one, other)
    roots = np.array([root_of(node) for node in range(len(keys))], dtype=np.int64)
    _, number = np.unique(roots, return_inverse=True)
    return number.astype(np.int64)[case_number]


def spellings(cases: Iterable[str]) -> list[tuple[str, ...]]:
    """The sets of names among some cases that are spellings of one name, each sorted."""
    by_key: dict[str, set[str]] = {}
    for case in set(cases):
        by_key.setdefault(spelling_key(case), set()).add(case)
    return sorted(tuple(sorted(names)) for names in by_key.values() if len(names) > 1)
