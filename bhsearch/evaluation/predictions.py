"""Out-of-fold predictions of one trial: the input of metrics, intervals and figures."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bhsearch.errors import DataError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
LabelArray = npt.NDArray[np.int8]

DISCLAIMER = "Research only. Not for screening patients."
USE = "use"  # CSV column with the restriction of use
_DIGITS = 6
TEXT_COLUMNS = ("path", "case", "subtype", "magnification")
SHIFT_WEIGHT = "score_weight_shift"  # CSV column with the weight of the shifts in the score
_SHIFTED = re.compile(r"shifted_(?P<shift>.+)_r0")
_FIXED_COLUMNS = ("path", "case", "group", "stratum", "label", "subtype", "magnification")


def case_weights(group: npt.NDArray[np.int64], fold: npt.NDArray[np.int8]) -> FloatArray:
    """Compute image weights that give every group the same total weight within a validation fold.

    Args:
        group: Group number per image. Shape (n_images,).
        fold: Validation fold per repeat and image. Shape (n_repeats, n_images).

    Returns:
        1/(number of images of the group in the fold), over both labels. The weights of a group in a fold sum to 1.
        Shape (n_repeats, n_images).

    Source:
        Ours: a case with 70 images has the same weight as a case with one image.
    """
    _, number = np.unique(group, return_inverse=True)
    n_folds = int(fold.max()) + 1
    key = number * n_folds + fold
    return np.stack([1.0 / np.bincount(row)[row] for row in key])


def six_digits(probability: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Round probabilities to six significant digits.

    Float32 represents six digits without loss. Probabilities are rounded before scoring, so that a file with six digits
    contains exactly the scored values.

    Args:
        probability: Values of 0 or more. Any shape.

    Returns:
        Rounded values of the same shape, which do not change if they are written with six digits and read again.
    """
    exact = np.asarray(probability, np.float64)
    exponent = np.floor(np.log10(exact, out=np.zeros_like(exact), where=exact > 0))
    scale = 10.0 ** (_DIGITS - 1 - exponent)
    return np.asarray(np.round(exact * scale) / scale, np.float32)


def write_use(file: Path, lines: Sequence[str]) -> Path:
    """Write a text file that describes a data file and its permitted use, in the same folder.

    The description is in a separate file because pandas and MLflow's preview cannot read CSV files with comments.

    Args:
        file: Path of the data file, such as `predictions.csv`.
        lines: Lines of the text.

    Returns:
        Path of the text file, such as `predictions.README.txt`.
    """
    beside = file.with_name(f"{file.stem}.README.txt")
    beside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return beside


@dataclass(frozen=True, eq=False)
class Predictions:
    """Out-of-fold predictions of one trial on the development images, in `n_repeats` repeats of `n_folds` folds.

    Attributes:
        label: 0 benign, 1 malignant. Shape (n_images,).
        probability: P(malignant) of each image in [0, 1], from a model that was not trained on the image. Shape
            (n_repeats, n_images).
        fold: Validation fold of each image, 0 to `n_folds` - 1. Shape (n_repeats, n_images).
        group: Number of each image's group, which is the unit of weighting and resampling. Shape (n_images,).
        stratum: Stratum of each image's group. Shape (n_images,).
        path, case, subtype, magnification: Strings, empty if unknown. Shape (n_images,).
        shifted: P(malignant) of the images under each shift that counts in the score, by name of the shift, from the
            models of `probability`; empty if the score is that of the unchanged images alone. Shape (n_repeats,
            n_images) each.
        shift_weight: Weight of the mean over the shifts in the score, from 0 to 1; 0 only without `shifted`.

    Raises:
        DataError: If shapes disagree, there is no image, a label is neither 0 nor 1, a probability is outside [0, 1] or
            not a number, or `shift_weight` does not fit `shifted`.
    """

    label: npt.NDArray[np.int8]
    probability: npt.NDArray[np.floating[Any]]
    fold: npt.NDArray[np.int8]
    group: npt.NDArray[np.int64]
    stratum: npt.NDArray[np.int64]
    path: npt.NDArray[np.object_]
    case: npt.NDArray[np.object_]
    subtype: npt.NDArray[np.object_]
    magnification: npt.NDArray[np.object_]
    shifted: Mapping[str, npt.NDArray[np.floating[Any]]] = field(default_factory=dict)
    shift_weight: float = 0.0

    def __post_init__(self) -> None:
        n = len(self.label)
        for name in ("group", "stratum", *TEXT_COLUMNS):
            if getattr(self, name).shape != (n,):
                raise DataError(f"`{name}` must have shape ({n},) like `label`, but got {getattr(self, name).shape}.")
        shape = self.probability.shape
        if len(shape) != 2 or shape[0] < 1 or shape[1] != n or n < 1 or self.fold.shape != shape:
            raise DataError(
                f"`probability` and `fold` must have the same shape (n_repeats, {n}) with at least one image and one "
                f"repeat, but got {shape} and {self.fold.shape}."
            )
        if not np.isin(self.label, (0, 1)).all():
            raise DataError(f"Labels must be 0 or 1, but got {np.unique(self.label).tolist()[:5]}.")
        if self.fold.min() < 0:
            raise DataError(f"Folds must be 0 or more, but got {self.fold.min()}.")
        for probability in (self.probability, *self.shifted.values()):
            if probability.shape != shape:
                raise DataError(
                    f"`shifted` must have the shape of `probability`, {shape}, but got {probability.shape}."
                )
            if not ((probability >= 0) & (probability <= 1)).all():
                low, high = probability.min(), probability.max()
                raise DataError(
                    f"Probabilities must be in [0, 1], but got {low} to {high}. If they are nan, the training "
                    "diverged: lower the learning rate."
                )
        if not 0 <= self.shift_weight <= 1 or bool(self.shifted) != (self.shift_weight > 0):
            raise DataError(
                "`shift_weight` must be above 0 and at most 1 with `shifted`, and 0 without, but got "
                f"{self.shift_weight} with {len(self.shifted)} shifts."
            )

    def __len__(self) -> int:
        return len(self.label)

    @property
    def n_repeats(self) -> int:
        """Number of repeats."""
        return int(self.probability.shape[0])

    @property
    def n_folds(self) -> int:
        """Number of folds per repeat."""
        return int(self.fold.max()) + 1

    @cached_property
    def conditions(self) -> tuple[tuple[float, Predictions], ...]:
        """Weight in the score, and predictions without shifts, of each condition: unchanged images, then each shift.

        The weights sum to 1. Without shifts, there is one condition: these predictions, with a weight of 1.
        """
        if not self.shifted:
            return ((1.0, self),)
        share = self.shift_weight / len(self.shifted)
        weights = (1 - self.shift_weight, *(share for _ in self.shifted))
        every = (self.probability, *self.shifted.values())
        alone = (replace(self, probability=one, shifted={}, shift_weight=0.0) for one in every)
        return tuple(zip(weights, alone, strict=True))

    @property
    def unchanged(self) -> Predictions:
        """The predictions of the unchanged images alone, whose score is the AUC."""
        return self.conditions[0][1]

    @property
    def out_of_fold(self) -> npt.NDArray[np.floating[Any]]:
        """Probabilities of the unchanged images in each repeat, then those under each shift.

        Shape (n_conditions * n_repeats, n_images).
        """
        return np.concatenate([self.probability, *self.shifted.values()])

    @property
    def shifts(self) -> tuple[str, ...]:
        """Names of the shifts that count in the score."""
        return tuple(self.shifted)

    @cached_property
    def weight(self) -> FloatArray:
        """Image weights, 1/(number of images of the group in the validation fold). Shape (n_repeats, n_images)."""
        return case_weights(self.group, self.fold)

    def count_groups(self) -> tuple[int, int, int]:
        """Count the groups: all, those with benign images, and those with malignant images."""
        n_benign, n_malignant = (len(np.unique(self.group[self.label == value])) for value in (0, 1))
        return len(np.unique(self.group)), n_benign, n_malignant

    def select(self, rows: npt.NDArray[np.bool_]) -> Predictions:
        """Return the predictions restricted to some images; weights are recomputed from these images.

        Args:
            rows: Mask of the images to keep. Shape (n_images,).
        """
        return Predictions(
            label=self.label[rows],
            probability=self.probability[:, rows],
            fold=self.fold[:, rows],
            group=self.group[rows],
            stratum=self.stratum[rows],
            **{name: getattr(self, name)[rows] for name in TEXT_COLUMNS},
            shifted={name: probability[:, rows] for name, probability in self.shifted.items()},
            shift_weight=self.shift_weight,
        )

    def to_csv(self, path: Path, note: str = DISCLAIMER) -> None:
        """Write a CSV file with one row per image, and a text file on the permitted use.

        The columns are `path`, `case`, `group`, `stratum`, `label`, `subtype`, `magnification`, then `fold_r0`,
        `probability_r0`, `fold_r1`, ... and `use`, which repeats the note in every row. If shifts count in the score,
        the columns `shifted_stain_r0`, ... and `score_weight_shift` come before `use`.

        Args:
            path: CSV file to write. An existing file is replaced.
            note: Restriction of use. If empty, the text file and the column `use` are left out.
        """
        columns: dict[str, list[Any]] = {name: getattr(self, name).tolist() for name in _FIXED_COLUMNS}
        for repeat in range(self.n_repeats):
            columns[f"fold_r{repeat}"] = self.fold[repeat].tolist()
            # `str` of a float32 is the shortest text that reads back as the same float32.
            columns[f"probability_r{repeat}"] = [str(p) for p in self.probability[repeat].astype(np.float32)]
        for shift, probability in self.shifted.items():
            for repeat, row in enumerate(probability.astype(np.float32)):
                columns[f"shifted_{shift}_r{repeat}"] = [str(p) for p in row]
            columns[SHIFT_WEIGHT] = [str(self.shift_weight)] * len(self)
        if note:
            said = " ".join(note.split())
            columns[USE] = [said] * len(self)
            write_use(path, [f"{path.name}: out-of-fold P(malignant), one row per image.", said])
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))

    def sharing(self, other: Predictions | None) -> Predictions:
        """Return the same predictions with the arrays of another trial where they are equal.

        Without this, the paths and cases of every trial that is read from a store would take fifty times as much memory
        as the probabilities.

        Args:
            other: Predictions of another trial of the study; None to return these predictions.
        """
        if other is None:
            return self
        names = ("label", "fold", "group", "stratum", *TEXT_COLUMNS)
        equal = [name for name in names if np.array_equal(getattr(self, name), getattr(other, name))]
        return replace(self, **{name: getattr(other, name) for name in equal})

    @classmethod
    def from_csv(cls, path: Path) -> Predictions:
        """Read predictions from a file written by `to_csv`; probabilities are float32.

        Raises:
            DataError: If columns are missing, a row is too short, or a number cannot be parsed.
        """
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        n_repeats = sum(name.startswith("probability_r") for name in header)
        repeats = [f"{name}_r{repeat}" for name in ("fold", "probability") for repeat in range(max(n_repeats, 1))]
        shifts = [found["shift"] for name in header if (found := _SHIFTED.fullmatch(name))]
        of_shifts = [f"shifted_{shift}_r{repeat}" for shift in shifts for repeat in range(n_repeats)]
        needed = [*_FIXED_COLUMNS, *repeats, *of_shifts, *([SHIFT_WEIGHT] if shifts else [])]
        missing = [name for name in needed if name not in header]
        if missing:
            raise DataError(
                f"The predictions file {path} lacks the columns {', '.join(missing)}; it must have {', '.join(needed)}."
            )
        try:
            column = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(header, ())
            return cls(
                label=np.array(column["label"]).astype(np.int8),
                probability=np.array([column[name] for name in repeats[max(n_repeats, 1) :]]).astype(np.float32),
                fold=np.array([column[name] for name in repeats[:n_repeats]]).astype(np.int8),
                group=np.array(column["group"]).astype(np.int64),
                stratum=np.array(column["stratum"]).astype(np.int64),
                **{name: np.array(column[name], dtype=object) for name in TEXT_COLUMNS},
                shifted={
                    shift: np.array([column[f"shifted_{shift}_r{repeat}"] for repeat in range(n_repeats)]).astype(
                        np.float32
                    )
                    for shift in shifts
                },
                shift_weight=float(column[SHIFT_WEIGHT][0]) if shifts else 0.0,
            )
        except ValueError as error:
            raise DataError(
                f"The predictions file {path} has a row with a missing field or an invalid number: {error}."
            ) from error


_Value = TypeVar("_Value", float, FloatArray)


def mean_over_conditions(predictions: Predictions, value: Callable[[Predictions], _Value]) -> _Value:
    """Return the weighted mean of a value over the conditions of the score; see `Predictions.conditions`.

    The score, its bootstrap samples and its derivatives are such means, since all conditions have the same images,
    folds and groups.

    Args:
        predictions: Out-of-fold predictions.
        value: Function of predictions without shifts.
    """
    return reduce(add, (weight * value(one) for weight, one in predictions.conditions))
