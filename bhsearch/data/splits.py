"""Splits of a data set into a sealed test set and grouped folds of the development set, without randomness."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Bools, Folds, Ints
from bhsearch.data.dataset import Dataset
from bhsearch.data.grouping import (
    SplitUnits,
    part_as_test,
    sealed_part,
    units_of_groups,
    units_of_images,
    units_of_sites,
    units_of_slides,
)
from bhsearch.data.layouts.naming import PARTS as DATA_PARTS
from bhsearch.data.magnification import ALL, at_magnification
from bhsearch.data.stratify import (
    SEPARATOR,
    assign_folds,
    classes_per_group,
    groups_per_fold,
    in_several_folds,
    select_test_groups,
)
from bhsearch.errors import DataError, SettingsError
from bhsearch.text import plural, verb

GROUPINGS = ("case", "site", "slide", "image")
PARTS = ("left out", "test", "development")
MAX_FOLDS = 100
MAX_REPEATS = 100
FEW_GROUPS = 3  # warn about fewer groups of a class in a fold or in the test set

_FORMAT = 1
_OPTIONS = (
    "group_by",
    "magnification",
    "test_fraction",
    "n_folds",
    "n_repeats",
    "sealed_by",
    "data_fingerprint",
    "promotable",
)


@dataclass(frozen=True, eq=False)
class Split:
    """Test set and development folds of a data set. Its arrays are read-only.

    Attributes:
        paths: Path per image, in the order of the data set. Shape (n_images,).
        test: Mask of the sealed test images. Shape (n_images,).
        development: Mask of the development images. Images in neither mask have another magnification. Shape
            (n_images,).
        folds: Validation fold of each image in each repeat, 0 to n_folds - 1; -1 outside the development set. Shape
            (n_repeats, n_images).
        groups: Group number of each image. Weighting and resampling always use these groups, whatever the value of
            `group_by`. Shape (n_images,).
        strata: Stratum of each image's group, for resampling. Shape (n_images,).
        group_by: Unit that folds keep together: `case`, `site`, `slide` or `image`. The test set always keeps groups
            together.
        magnification: Magnification of the test and development images as in the data set, such as `100X`, or `all`.
        test_fraction: Share of the groups in the test set; unused if `sealed_by` is `part`.
        n_folds: Folds per repeat.
        n_repeats: Number of repeats.
        sealed_by: `fraction`, or `part` if the predefined test or validation part is the test set.
        data_fingerprint: `Dataset.fingerprint` of the rows sorted by path.
        promotable: Whether a model trained with this split may be promoted.
        why_not_promotable: Reasons as sentences; empty if `promotable`.
        leaks: Sentences about cases and images that occur in several folds; empty for folds by case.
        warnings: Sentences about properties of the split that limit the reliability of scores.
    """

    paths: npt.NDArray[np.object_]
    test: Bools
    development: Bools
    folds: Folds
    groups: Ints
    strata: Ints
    group_by: str
    magnification: str
    test_fraction: float
    n_folds: int
    n_repeats: int
    sealed_by: str
    data_fingerprint: str
    promotable: bool
    why_not_promotable: str
    leaks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for array in (self.paths, self.test, self.development, self.folds, self.groups, self.strata):
            array.setflags(write=False)

    def parts(self) -> Iterator[tuple[int, int]]:
        """Iterate over all pairs (repeat, fold), repeat by repeat."""
        return ((repeat, fold) for repeat in range(self.n_repeats) for fold in range(self.n_folds))

    def validation(self, repeat: int, fold: int) -> Bools:
        """Return the mask of the validation images of a fold. Shape (n_images,)."""
        return validation_mask(self.folds, repeat, fold)

    def training(self, repeat: int, fold: int) -> Bools:
        """Return the mask of the training images of a fold. Shape (n_images,)."""
        return training_mask(self.folds, repeat, fold)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of data, options, test set and folds, independent of row order and data folder. 16 hex digits."""
        options = {name: getattr(self, name) for name in _OPTIONS}
        if self.sealed_by == "part":
            del options["test_fraction"]
        digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
        columns = (self.paths, self._part(), self.groups, self.strata, *self.folds)
        for fields in sorted(zip(*(column.tolist() for column in columns), strict=True)):
            digest.update(SEPARATOR.join(map(str, fields)).encode() + b"\x1e")
        return digest.hexdigest()[:16]

    def _part(self) -> Ints:
        """Return the index in `PARTS` of each image's part. Shape (n_images,)."""
        return self.test + 2 * self.development.astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able record of the split, with the images as columns of equal length."""
        return {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            **{name: getattr(self, name) for name in _OPTIONS},
            "why_not_promotable": self.why_not_promotable,
            "leaks": list(self.leaks),
            "warnings": list(self.warnings),
            "images": {
                "path": self.paths.tolist(),
                "part": [PARTS[part] for part in self._part()],
                "group": self.groups.tolist(),
                "stratum": self.strata.tolist(),
                "folds": self.folds.tolist(),
            },
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Split:
        """Restore the split from a record of `to_dict`.

        Raises:
            DataError: If the record has another format version, is incomplete or was modified.
        """
        if record.get("format") != _FORMAT:
            raise DataError(
                f"Cannot read a stored split of the format {record.get('format')!r}; this version of bhsearch reads "
                f"format {_FORMAT}. Use the version that made the study, or create a new study with --study."
            )
        try:
            images = record["images"]
            number = {name: at for at, name in enumerate(PARTS)}
            part = np.array([number[name] for name in images["part"]])
            split = cls(
                paths=np.array(images["path"], dtype=object),
                test=part == number["test"],
                development=part == number["development"],
                folds=np.array(images["folds"], dtype=np.int8),
                groups=np.array(images["group"], dtype=np.int64),
                strata=np.array(images["stratum"], dtype=np.int64),
                **{name: record[name] for name in _OPTIONS},
                why_not_promotable=record["why_not_promotable"],
                leaks=tuple(record["leaks"]),
                warnings=tuple(record["warnings"]),
            )
            kept, found = record["fingerprint"], split.fingerprint
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise DataError(f"The stored split is damaged: {error!r}. Create a new study with --study.") from error
        if kept != found:
            raise DataError(
                f"The stored split was modified: its fingerprint should be {kept}, but is {found}. Create a new study "
                "with --study."
            )
        return split


def validation_mask(folds: Folds, repeat: int, fold: int) -> Bools:
    """Return the mask of the validation images of a fold.

    Args:
        folds: Fold of each image in each repeat, -1 outside the development set. Shape (n_repeats, n_images).
        repeat: 0 to n_repeats - 1.
        fold: 0 to n_folds - 1.

    Raises:
        IndexError: If `repeat` or `fold` is out of range. Negative values are refused, since repeat -1 would be the
            last repeat, and fold -1 would select the images outside the development set, including the test set.
    """
    mask: Bools = _folds_of(folds, repeat, fold) == fold
    return mask


def training_mask(folds: Folds, repeat: int, fold: int) -> Bools:
    """Return the mask of the training images of a fold; see `validation_mask`."""
    row = _folds_of(folds, repeat, fold)
    mask: Bools = (row >= 0) & (row != fold)
    return mask


def _folds_of(folds: Folds, repeat: int, fold: int) -> Folds:
    n_repeats, n_folds = len(folds), int(folds.max(initial=-1)) + 1
    if not (0 <= repeat < n_repeats and 0 <= fold < n_folds):
        raise IndexError(f"`repeat` must be below {n_repeats} and `fold` below {n_folds}, but got {repeat} and {fold}.")
    row: Folds = folds[repeat]
    return row


def training_weights(groups: Ints, part: Bools) -> npt.NDArray[np.float64]:
    """Compute image weights that give every group in a part of the data the same total weight, over both labels.

    Args:
        groups: Group number per image, from 0. Shape (n_images,).
        part: Mask of the images in the part. Shape (n_images,).

    Returns:
        1 / (number of images of the group in the part), and 0 outside the part. The sum is the number of groups in the
        part. Shape (n_images,).

    Source:
        Ours: without weights, a case with 74 images would count 74 times as much as a case with one image.
    """
    n_images = np.bincount(groups[part], minlength=int(groups.max(initial=0)) + 1)
    return np.where(part, 1.0 / np.maximum(n_images[groups], 1), 0.0)


def make_split(
    dataset: Dataset,
    *,
    test_fraction: float = 0.2,
    n_folds: int = 5,
    n_repeats: int = 1,
    group_by: str = "case",
    magnification: str = "all",
    ignore_predefined_split: bool = False,
) -> Split:
    """Split a data set: select the sealed test set, then assign the remaining units to folds.

    The test set depends only on the data and `test_fraction`, and is selected before images are filtered by
    magnification, so every study of a data set seals the same cases. Folds do not depend on a seed, so studies with the
    same options have the same folds and can be compared fold by fold.

    Args:
        dataset: The whole data set, with all magnifications.
        test_fraction: Share of the groups of each stratum to seal, 0.05 to 0.5.
        n_folds: 2 to 100.
        n_repeats: 1 to 100.
        group_by: Unit that folds keep together: `case`, `site`, `slide` or `image`. With `site`, all cases of a site
            are in one fold, so as many folds as sites leave one site out at a time. With `slide` and `image`, images of
            one case may be in several folds.
        magnification: Magnification of the test and development images, such as `100X`, or `all`.
        ignore_predefined_split: Whether to ignore a predefined split and split by case.

    Raises:
        SettingsError: If an option is unknown, out of range, or does not fit the data.
        DataError: If the test set or a fold would lack a class, or a group has images in several predefined parts.
    """
    check_split_options(test_fraction, n_folds, n_repeats, group_by)
    magnification, chosen = at_magnification(dataset, magnification)
    groups = units_of_groups(dataset)
    part = "" if ignore_predefined_split else sealed_part(dataset)
    sealed = part_as_test(dataset, groups) if part else _sealed(dataset, groups, test_fraction)
    test, rows = sealed & chosen, ~sealed & chosen
    _require_test(dataset, groups, test, part, magnification)
    units = _units_to_assign(dataset, groups, rows, group_by)
    folds = np.full((n_repeats, len(dataset)), -1, dtype=np.int8)
    folds[:, rows] = _check_folds(units, dataset.labels[rows], n_folds, n_repeats, group_by, magnification)
    reasons = _why_not_promotable(dataset, group_by)
    return Split(
        paths=dataset.column("path").copy(),
        test=test,
        development=rows,
        folds=folds,
        groups=groups.number,
        strata=groups.strata[groups.number],
        group_by=group_by,
        magnification=magnification,
        test_fraction=float(test_fraction),
        n_folds=n_folds,
        n_repeats=n_repeats,
        sealed_by="part" if part else "fraction",
        data_fingerprint=replace(dataset, table=dataset.table.sort_values("path")).fingerprint,
        promotable=not reasons,
        why_not_promotable=" ".join(reasons),
        leaks=_leaks(dataset, groups, folds, group_by),
        warnings=(
            *_on_parts(dataset, part, test_fraction),
            *reasons,
            *filter(None, [_joined_sites(units, group_by)]),
            *_few_groups(dataset, groups, test, folds, n_folds),
        ),
    )


def check_split_options(test_fraction: float, n_folds: int, n_repeats: int, group_by: str) -> None:
    """Check the options of a split that can be checked without the data; see `make_split` for the arguments.

    Raises:
        SettingsError: If an option is out of its range, or the grouping is unknown.
    """
    if not 0.05 <= test_fraction <= 0.5:
        raise SettingsError(f"--test-fraction must be from 0.05 to 0.5, but got {test_fraction}.")
    if not 2 <= n_folds <= MAX_FOLDS:
        raise SettingsError(f"--folds must be from 2 to {MAX_FOLDS}, but got {n_folds}.")
    if not 1 <= n_repeats <= MAX_REPEATS:
        raise SettingsError(f"--repeats must be from 1 to {MAX_REPEATS}, but got {n_repeats}.")
    if group_by not in GROUPINGS:
        raise SettingsError(f"--group-by must be one of {', '.join(GROUPINGS)}, but got {group_by!r}.")


def _sealed(dataset: Dataset, groups: SplitUnits, test_fraction: float) -> Bools:
    carriers = classes_per_group(groups.number, dataset.labels)
    mask: Bools = select_test_groups(groups.keys, groups.strata, carriers, test_fraction)[groups.number]
    return mask


def _on_parts(dataset: Dataset, part: str, test_fraction: float) -> list[str]:
    """Return sentences that explain how the predefined split is used or that it is ignored."""
    present = [name for name in DATA_PARTS if (dataset.column("part") == name).any()]
    if not part:
        return (
            [f"The predefined split ({', '.join(present)}) is ignored because of --ignore-predefined-split."]
            if present
            else []
        )
    sentence = (
        f"The {part} images of the predefined split are the test set; --test-fraction {test_fraction:g} is not used."
    )
    others = [name for name in present if name != part]
    if len(others) > 1:
        sentence += (
            f" The {' and '.join(others)} images together are the development set, which is divided into new folds."
        )
    return [sentence]


def _require_test(dataset: Dataset, groups: SplitUnits, test: Bools, part: str, magnification: str) -> None:
    counts = _cases_of_classes(groups.number[test], dataset.labels[test])
    if min(counts):
        return
    total = _cases_of_classes(groups.number, dataset.labels)
    what = f"test set (the {part} images of the predefined split)" if part else "test set"
    raise DataError(
        f"The {what} must have cases of both classes, but it has {_counted(counts, 'cases' + _at(magnification))}. "
        + (
            f"The whole data set has {_counted(total, 'cases')}. Split by case with --ignore-predefined-split."
            if magnification == ALL
            else f"The whole data set has {_counted(total, 'cases')} at all magnifications. Use --magnification {ALL}, "
            "which also tests on images at the other magnifications."
        )
    )


def _units_to_assign(dataset: Dataset, groups: SplitUnits, rows: Bools, group_by: str) -> SplitUnits:
    if group_by == "case":
        return groups.select(rows)
    if group_by == "site":
        return units_of_sites(dataset.select(rows), groups.number[rows])
    return (units_of_slides if group_by == "slide" else units_of_images)(dataset.select(rows))


def _joined_sites(units: SplitUnits, group_by: str) -> str:
    """Return a sentence that names the sites that are one unit; empty if there are none, or units are no sites."""
    joined = [" = ".join(key.split(SEPARATOR)) for key in units.keys if group_by == "site" and SEPARATOR in key]
    return (
        f"Sites joined by = share a case, or differ only in spelling, and stay in one fold: {'; '.join(joined)}."
        if joined
        else ""
    )


def _check_folds(
    units: SplitUnits, labels: Folds, n_folds: int, n_repeats: int, group_by: str, magnification: str
) -> Folds:
    """Assign units to folds and check the result.

    Args:
        units: Units of the development set.
        labels: Label per image. Shape (n_images,).
        n_folds: Number of folds.
        n_repeats: Number of different divisions.
        group_by: One of `GROUPINGS`, the kind of the units.
        magnification: Magnification of the images, or `ALL`.

    Returns:
        Fold of each image in each repeat; every fold has both classes. Shape (n_repeats, n_images).

    Raises:
        SettingsError: If there are fewer than `n_repeats` different divisions.
        DataError: If a fold would lack a class.
    """

    def assigned(n_folds: int) -> tuple[Folds, bool]:
        folds = assign_folds(units.keys, units.strata, n_folds, n_repeats)[:, units.number]
        return folds, bool(groups_per_fold(folds, units.number, labels, n_folds).all())

    what = f"{group_by}s{_at(magnification)}"
    folds, works = assigned(n_folds)
    if works and len(folds) == n_repeats:
        return folds
    if works:
        raise SettingsError(
            f"--repeats {n_repeats} is too large: {len(units.keys):,} {what} in {n_folds} folds allow only "
            f"{plural(len(folds), 'different division')}. Use at most --repeats {len(folds)}."
        )
    counts = _cases_of_classes(units.number, labels)
    possible = range(min(MAX_FOLDS, *counts), 1, -1)
    largest = next((k for k in possible if len((found := assigned(k))[0]) == n_repeats and found[1]), None)
    repeated = f" with --repeats {n_repeats}" if n_repeats > 1 else ""
    if largest:
        remedy = f"The largest possible value{repeated} is --folds {largest}."
    else:
        more = "sites, or use --group-by case" if group_by == "site" else "cases"
        remedy = f"No value of --folds works{repeated}; two folds need at least two of each class. Add {more}."
    raise DataError(
        f"With --folds {n_folds}, a fold would lack a class: the development set has only {_counted(counts, what)}. "
        + " ".join(filter(None, [_joined_sites(units, group_by), remedy]))
    )


def _why_not_promotable(dataset: Dataset, group_by: str) -> list[str]:
    reasons = []
    if not dataset.has_cases:
        reasons.append(
            "The cases are unknown, so images of a patient may be in several parts of this split. Name the case of "
            "each image in a column `case` of a manifest, or by --case-pattern for folders."
        )
    if group_by not in ("case", "site"):
        reasons.append(f"The folds are made by {group_by}, so images of a case may be in several folds.")
    return [f"{reason} No model of this study can be promoted." for reason in reasons]


def _leaks(dataset: Dataset, groups: SplitUnits, folds: Folds, group_by: str) -> tuple[str, ...]:
    rows = folds[0] >= 0
    number, folds = groups.number[rows], folds[:, rows]
    _, image_number = np.unique(dataset.column("pixels_digest")[rows], return_inverse=True)
    sentences = []
    for what, keys in (("development cases", number), ("different images", image_number)):
        apart = in_several_folds(keys, folds)
        if apart.any():
            sentences.append(
                f"Grouping by {group_by} puts {_n_different(keys[apart]):,} of {_n_different(keys):,} {what} in "
                f"several folds, with {apart.sum():,} of {plural(len(keys), 'image')}."
            )
    return tuple(sentences)


def _few_groups(dataset: Dataset, groups: SplitUnits, test: Bools, folds: Folds, n_folds: int) -> list[str]:
    rows = folds[0] >= 0
    in_folds = groups_per_fold(folds[:, rows], groups.number[rows], dataset.labels[rows], n_folds)
    in_test = _cases_of_classes(groups.number[test], dataset.labels[test])
    sentences = []
    for label, name in enumerate(dataset.class_names):
        counts = in_folds[..., label]
        n_few = int((counts < FEW_GROUPS).sum())
        if n_few:
            sentences.append(
                f"{n_few:,} of {counts.size:,} folds {verb(n_few, 'has', 'have')} fewer than {FEW_GROUPS} {name} "
                "cases (minimum "
                f"{counts.min()}), so their AUC varies a lot by chance."
            )
        if in_test[label] < FEW_GROUPS:
            sentences.append(f"The sealed test has fewer than {FEW_GROUPS} {name} cases ({in_test[label]}).")
    return sentences


def _cases_of_classes(units: Ints, labels: Folds) -> tuple[int, int]:
    """Return the numbers of units with benign and with malignant images."""
    return _n_different(units[labels == 0]), _n_different(units[labels == 1])


def _n_different(numbers: Ints) -> int:
    return len(np.unique(numbers))


def _counted(counts: tuple[int, int], what: str) -> str:
    return f"{counts[0]:,} benign and {counts[1]:,} malignant {what}"


def _at(magnification: str) -> str:
    return "" if magnification == ALL else f" at {magnification}"
