"""Columns of a data set and its split, which are joined to probabilities to form `Predictions`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bhsearch.data.dataset import Dataset
from bhsearch.data.splits import Split
from bhsearch.evaluation.predictions import TEXT_COLUMNS, Predictions
from bhsearch.models.augmentation.shifts import SHIFTS

_SHIFT_WEIGHT = "shift_weight"


@dataclass(frozen=True, eq=False)
class ImageColumns:
    """Columns of some images of a data set: all fields of `Predictions` except the probabilities.

    Attributes:
        label: Class of each image: 0 for benign, 1 for malignant. Shape (n_images,).
        fold: Validation fold of each image in each repeat. Shape (n_repeats, n_images).
        group: Group number of each image; groups are the unit of weighting and resampling. Shape (n_images,).
        stratum: Stratum of each image's group. Shape (n_images,).
        path, case, subtype, magnification: Strings for each image; empty if unknown. Shape (n_images,).
        shift_weight: Weight of the shifts in the score of a study (`--score-weight-shift`), from 0 to 1.
    """

    label: npt.NDArray[np.int8]
    fold: npt.NDArray[np.int8]
    group: npt.NDArray[np.int64]
    stratum: npt.NDArray[np.int64]
    path: npt.NDArray[np.object_]
    case: npt.NDArray[np.object_]
    subtype: npt.NDArray[np.object_]
    magnification: npt.NDArray[np.object_]
    shift_weight: float = 0.0

    @classmethod
    def select(
        cls,
        index: Dataset,
        split: Split,
        rows: npt.NDArray[np.bool_],
        fold: npt.NDArray[np.int8],
        shift_weight: float = 0.0,
    ) -> Self:
        """Return the columns of the images of a mask.

        Args:
            index: Data set.
            split: Split of the whole data set.
            rows: Mask of the images to keep. Shape (len(index),).
            fold: Validation fold of each kept image in each repeat. Shape (n_repeats, n_images).
            shift_weight: Weight of the shifts in the score.
        """
        return cls(
            label=index.labels[rows],
            fold=fold,
            group=split.groups[rows],
            stratum=split.strata[rows],
            **{name: index.column(name)[rows] for name in TEXT_COLUMNS},
            shift_weight=shift_weight,
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Return the columns that `arrays` has returned; earlier versions did not write the weight of the shifts."""
        columns = {field.name: arrays[field.name] for field in fields(cls) if field.name != _SHIFT_WEIGHT}
        texts = {name: columns[name].astype(object) for name in TEXT_COLUMNS}
        return cls(**columns | texts, shift_weight=float(arrays.get(_SHIFT_WEIGHT, np.array(0.0))))

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: npt.NDArray[np.bool_], repeats: slice = slice(None)) -> Self:
        """Return the columns of some images, in some repeats.

        Args:
            rows: Mask of the images to keep. Shape (n_images,).
            repeats: Repeats whose folds are kept.
        """
        columns = {name: column[..., rows] for name, column in self._columns().items()}
        return replace(self, **columns | {"fold": columns["fold"][repeats]})

    def without_fold(self, repeat: int, fold: int) -> Self:
        """Return the columns of the training part of a fold, with the other folds of the repeat numbered from 0."""
        part = self.take(self.fold[repeat] != fold, slice(repeat, repeat + 1))
        _, numbered = np.unique(part.fold, return_inverse=True)
        return replace(part, fold=numbered.reshape(part.fold.shape).astype(part.fold.dtype))

    def predictions(self, probability: npt.NDArray[np.floating]) -> Predictions:
        """Return probabilities joined with the columns of their images.

        Args:
            probability: P(malignant) in each repeat. If shifts count in the score, the repeats under each of `SHIFTS`
                may follow. Without them, the score of the predictions is that of the unchanged images. Shape
                (n_repeats, n_images), or (n_repeats * (1 + n_shifts), n_images).
        """
        n_repeats = len(self.fold)
        if len(probability) != n_repeats * (1 + len(SHIFTS)):
            return Predictions(probability=probability, **self._columns())
        clean, *shifted = np.split(probability, 1 + len(SHIFTS))
        of_shifts = dict(zip(SHIFTS, shifted, strict=True))
        return Predictions(probability=clean, **self._columns(), shifted=of_shifts, shift_weight=self.shift_weight)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns by name, with strings as fixed-length arrays, which can be saved without pickling."""
        columns = {
            name: column.astype(str) if name in TEXT_COLUMNS else column for name, column in self._columns().items()
        }
        return columns | {_SHIFT_WEIGHT: np.array(self.shift_weight)}

    def _columns(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != _SHIFT_WEIGHT}
