"""Groups of cases and other units of a split. Their keys do not depend on the location or the order of the files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Bools, Folds, Ints
from bhsearch.data.dataset import CLASS_NAMES, Dataset
from bhsearch.data.layouts.naming import PARTS, TEST, VALIDATION, shown, spelling_key
from bhsearch.data.stratify import SEPARATOR, strata_of
from bhsearch.errors import DataError, SettingsError
from bhsearch.text import listed


@dataclass(frozen=True, eq=False)
class SplitUnits:
    """Images and the units that a split keeps together.

    Attributes:
        number: Unit per image, 0 to n_units - 1. Shape (n_images,).
        keys: Key per unit, all different. Length n_units.
        strata: Stratum per unit. Shape (n_units,).
    """

    number: Ints
    keys: list[str]
    strata: Ints

    def select(self, rows: Bools) -> SplitUnits:
        """Return the units of some images, with their keys and strata unchanged.

        Args:
            rows: Mask of the images. Shape (n_images,).
        """
        present, number = np.unique(self.number[rows], return_inverse=True)
        return SplitUnits(number.astype(np.int64), [self.keys[unit] for unit in present], self.strata[present])


def case_keys(dataset: Dataset) -> npt.NDArray[np.object_]:
    """Return the case of each image, or the image's path where the data set does not know its cases.

    Returns:
        Case keys. Shape (n_images,).

    Raises:
        DataError: If the data set knows its cases but an image has none.
    """
    cases, paths = dataset.column("case"), dataset.column("path")
    unknown = cases == ""
    if dataset.has_cases and unknown.any():
        raise DataError(f"Every image must have a case, but these have none:\n{listed(paths[unknown].tolist())}")
    return np.where(unknown, paths, cases)


def units_of_groups(dataset: Dataset) -> SplitUnits:
    """Return the groups of a whole data set. The key of a group joins the sorted keys of its cases.

    Raises:
        DataError: If a class has no image, or an image has no case.
    """
    missing = [name for label, name in enumerate(CLASS_NAMES) if not (dataset.labels == label).any()]
    if missing:
        raise DataError(
            f"Both benign and malignant images are required, but there are no {' and no '.join(missing)} images."
        )
    cases = case_keys(dataset)
    groups = merge_groups(cases, dataset.column("pixels_digest"), by_spelling=dataset.has_cases)
    members: list[set[str]] = [set() for _ in range(int(groups.max()) + 1)]
    for group, case in zip(groups, cases, strict=True):
        members[group].add(case)
    keys = [SEPARATOR.join(sorted(names)) for names in members]
    return SplitUnits(groups, keys, strata_of(groups, dataset.labels))


def units_of_slides(dataset: Dataset) -> SplitUnits:
    """Return the slides of a data set, stratified by their own labels.

    Raises:
        SettingsError: If the slide of an image is unknown.
    """
    slides = dataset.column("slide")
    n_unknown = int(np.sum(slides == ""))
    if n_unknown:
        raise SettingsError(
            f"--group-by slide needs the slide of every image, but {n_unknown:,} of {len(dataset):,} images have none. "
            "Use --group-by case."
        )
    # The key includes the case, since two cases may have a slide with the same name.
    return _named([SEPARATOR.join(pair) for pair in zip(case_keys(dataset), slides, strict=True)], dataset.labels)


def units_of_images(dataset: Dataset) -> SplitUnits:
    """Return each image as a unit of its own."""
    return _named(dataset.column("path").tolist(), dataset.labels)


def sealed_part(dataset: Dataset) -> str:
    """Return the predefined part that becomes the sealed test: `test`, else `validation`, else an empty string."""
    present = set(dataset.column("part"))
    return next((part for part in (TEST, VALIDATION) if part in present), "")


def part_as_test(dataset: Dataset, groups: SplitUnits) -> Bools:
    """Return the mask of the images in `sealed_part`. Shape (n_images,).

    Raises:
        DataError: If a group has images both inside and outside that part.
    """
    part = sealed_part(dataset)
    inside: Bools = dataset.column("part") == part
    n_inside = np.bincount(groups.number[inside], minlength=len(groups.keys))
    n_outside = np.bincount(groups.number[~inside], minlength=len(groups.keys))
    shared = np.flatnonzero((n_inside > 0) & (n_outside > 0))
    if len(shared):
        others = " and ".join(name for name in PARTS if name != part and (dataset.column("part") == name).any())
        names = [
            f"{' = '.join(map(shown, groups.keys[group].split(SEPARATOR)))}: {n_outside[group]:,} images in {others}, "
            f"{n_inside[group]:,} in {part}"
            for group in shared
        ]
        raise DataError(
            f"{others.capitalize()} and {part} must have no case or image in common, but share {len(shared):,} (cases "
            f"with a common image or differing in spelling only are joined by =):\n{listed(names)}\n"
            "Move each case to one side, or split by case with --ignore-predefined-split."
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
        by_spelling: Whether to link cases whose names are spellings of one name (`naming.spelling_key`), since they may
            be one patient. Not for keys that are paths.

    Returns:
        Group number per image, 0 to n_groups - 1, in the order of each group's smallest case key. It does not depend on
        the order of the images. Shape (n_images,).

    Raises:
        DataError: If the two arrays differ in length.
    """
    if len(case) != len(pixels_digest):
        raise DataError(
            f"Every image must have a case and a digest, but got {len(case)} cases and {len(pixels_digest)} digests."
        )
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
        # `keys` is sorted, so the smaller number has the smaller key: it remains the root and names the group.
        parent[max(one, other)] = min(one, other)
    first_spelt: dict[str, int] = {}
    for node, key in enumerate(keys.tolist()) if by_spelling else ():
        one, other = root_of(node), root_of(first_spelt.setdefault(spelling_key(key), node))
        parent[max(one, other)] = min(one, other)
    roots = np.array([root_of(node) for node in range(len(keys))], dtype=np.int64)
    _, number = np.unique(roots, return_inverse=True)
    return number.astype(np.int64)[case_number]


def spellings(cases: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the sets of case names that are spellings of one name, each sorted."""
    by_key: dict[str, set[str]] = {}
    for case in set(cases):
        by_key.setdefault(spelling_key(case), set()).add(case)
    return sorted(tuple(sorted(names)) for names in by_key.values() if len(names) > 1)
