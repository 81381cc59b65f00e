"""Sets of images that a split never divides: groups of cases, slides or single images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Bools, Folds, Ints
from bhsearch.data.dataset import Dataset
from bhsearch.data.layouts.naming import PARTS, TEST, VALIDATION, shown, spelling_key
from bhsearch.data.stratify import SEPARATOR, strata_of
from bhsearch.errors import DataError, SettingsError
from bhsearch.text import listed, plural, verb


@dataclass(frozen=True, eq=False)
class SplitUnits:
    """Sets of images ("units") that a split never divides.

    Attributes:
        number: Unit number per image, 0 to n_units - 1. Shape (n_images,).
        keys: Unique key per unit. Length n_units.
        strata: Stratum per unit. Shape (n_units,).
    """

    number: Ints
    keys: list[str]
    strata: Ints

    def select(self, rows: Bools) -> SplitUnits:
        """Return the units that contain images of a mask, renumbered, with unchanged keys and strata.

        Args:
            rows: Mask of the images to keep. Shape (n_images,).
        """
        present, number = np.unique(self.number[rows], return_inverse=True)
        return SplitUnits(number.astype(np.int64), [self.keys[unit] for unit in present], self.strata[present])


def case_keys(dataset: Dataset) -> npt.NDArray[np.object_]:
    """Return the case of each image, or the path of the image if its case is unknown.

    Returns:
        Case keys. Shape (n_images,).

    Raises:
        DataError: If `dataset.has_cases` is true but the case of an image is unknown.
    """
    cases, paths = dataset.column("case"), dataset.column("path")
    unknown = cases == ""
    if dataset.has_cases and unknown.any():
        raise DataError(
            f"The case of some images is unknown:\n{listed(paths[unknown].tolist())}\nName cases with the column case "
            "of a manifest, or with --case-pattern."
        )
    return np.where(unknown, paths, cases)


def units_of_groups(dataset: Dataset) -> SplitUnits:
    """Return the units of a split by case: groups of cases, whose keys consist of the sorted case keys.

    Raises:
        DataError: If a class has no image, or `dataset.has_cases` is true but the case of an image is unknown.
    """
    missing = [name for label, name in enumerate(dataset.class_names) if not (dataset.labels == label).any()]
    if missing:
        raise DataError(
            f"The data set contains no {' and no '.join(missing)} images; bhsearch needs both classes. Check --data "
            "and --class-map."
        )
    cases = case_keys(dataset)
    groups = merge_groups(cases, dataset.column("pixels_digest"), by_spelling=dataset.has_cases)
    members: list[set[str]] = [set() for _ in range(int(groups.max()) + 1)]
    for group, case in zip(groups, cases, strict=True):
        members[group].add(case)
    keys = [SEPARATOR.join(sorted(names)) for names in members]
    return SplitUnits(groups, keys, strata_of(groups, dataset.labels))


def units_of_slides(dataset: Dataset) -> SplitUnits:
    """Return the units of a split by slide, stratified by the labels of the slides.

    Raises:
        SettingsError: If the slide of an image is unknown.
    """
    slides = dataset.column("slide")
    n_unknown = int(np.sum(slides == ""))
    if n_unknown:
        raise SettingsError(
            f"--group-by slide requires that the slide of every image is known, but it is missing for {n_unknown:,} of "
            f"{plural(len(dataset), 'image')}. Use --group-by case."
        )
    # The key includes the case, since two cases may have a slide with the same name.
    return _named([SEPARATOR.join(pair) for pair in zip(case_keys(dataset), slides, strict=True)], dataset.labels)


def units_of_sites(dataset: Dataset, group: Ints) -> SplitUnits:
    """Return the sites of a data set as units; sites that share a group of cases are one unit.

    Args:
        dataset: The data set.
        group: Number of the group of cases of each image. Shape (n_images,).

    Raises:
        SettingsError: If the site of an image is unknown.
    """
    sites = dataset.column("site")
    if not len(sites):  # all cases may be in the test set
        return _named([], dataset.labels)
    n_unknown = int(np.sum(sites == ""))
    if n_unknown:
        raise SettingsError(
            f"--group-by site needs the site of every image, but {n_unknown:,} of "
            f"{plural(len(dataset), 'image')} {verb(n_unknown, 'has', 'have')} none. "
            "Add a column site to the table of images, or use --group-by case."
        )
    unit = merge_groups(sites, group.astype(str).astype(object), by_spelling=True)
    names = [SEPARATOR.join(sorted(set(sites[unit == number].tolist()))) for number in range(int(unit.max()) + 1)]
    return SplitUnits(unit, names, strata_of(unit, dataset.labels))


def units_of_images(dataset: Dataset) -> SplitUnits:
    """Return the units of a split by image: each unit is a single image."""
    return _named(dataset.column("path").tolist(), dataset.labels)


def sealed_part(dataset: Dataset) -> str:
    """Return the part of the predefined split that becomes the test set: `test` or, if missing, `validation`.

    Returns:
        Name of the part; empty without a predefined split.
    """
    present = set(dataset.column("part"))
    return next((part for part in (TEST, VALIDATION) if part in present), "")


def part_as_test(dataset: Dataset, groups: SplitUnits) -> Bools:
    """Return the mask of the images in the part that `sealed_part` returns. Shape (n_images,).

    Raises:
        DataError: If a group has images both inside and outside the sealed part.
    """
    part = sealed_part(dataset)
    inside: Bools = dataset.column("part") == part
    n_inside = np.bincount(groups.number[inside], minlength=len(groups.keys))
    n_outside = np.bincount(groups.number[~inside], minlength=len(groups.keys))
    shared = np.flatnonzero((n_inside > 0) & (n_outside > 0))
    if len(shared):
        others = " and ".join(name for name in PARTS if name != part and (dataset.column("part") == name).any())
        names = [
            f"{' = '.join(map(shown, groups.keys[group].split(SEPARATOR)))}: "
            f"{plural(int(n_outside[group]), 'image')} in {others}, {n_inside[group]:,} in {part}"
            for group in shared
        ]
        raise DataError(
            f"The predefined split has a leak: {plural(len(shared), 'case')} in both {others} and "
            f"{part}:\n{listed(names)}\nCases joined by = share an image or differ only in the spelling of their "
            "names. Move all images of a case to one side, or make a new split by case with "
            "--ignore-predefined-split."
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
        by_spelling: Whether to link cases whose names are spellings of one name (see `naming.spelling_key`), since
            these cases may be one patient. Must be false if case keys are paths.

    Returns:
        Group number per image, 0 to n_groups - 1. Groups are numbered in the order of their smallest case keys, so the
        numbers do not depend on the order of the images. Shape (n_images,).

    Raises:
        DataError: If the two arrays differ in length.
    """
    if len(case) != len(pixels_digest):
        raise DataError(
            f"`case` and `pixels_digest` must have the same length, but got {len(case)} and {len(pixels_digest)}."
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
        # `keys` is sorted, so the node with the smaller number has the smaller key; this node becomes the root.
        parent[max(one, other)] = min(one, other)
    first_spelt: dict[str, int] = {}
    for node, key in enumerate(keys.tolist()) if by_spelling else ():
        one, other = root_of(node), root_of(first_spelt.setdefault(spelling_key(key), node))
        parent[max(one, other)] = min(one, other)
    roots = np.array([root_of(node) for node in range(len(keys))], dtype=np.int64)
    _, number = np.unique(roots, return_inverse=True)
    return number.astype(np.int64)[case_number]


def spellings(cases: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the sets of case names that are different spellings of one name, each set sorted."""
    by_key: dict[str, set[str]] = {}
    for case in set(cases):
        by_key.setdefault(spelling_key(case), set()).add(case)
    return sorted(tuple(sorted(names)) for names in by_key.values() if len(names) > 1)
