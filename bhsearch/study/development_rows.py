"""The development images of a study as columns, from which `Predictions` are built."""

from __future__ import annotations

from bhsearch.data.dataset import Dataset
from bhsearch.data.splits import Split
from bhsearch.evaluation.image_columns import ImageColumns


class DevelopmentImages(ImageColumns):
    """The images that a study may train and validate on, in the order of the data set."""

    @classmethod
    def of(cls, index: Dataset, split: Split, shift_weight: float = 0.0) -> DevelopmentImages:
        """Return the development images of a data set and its split.

        Args:
            index: Data set.
            split: Split of the data set.
            shift_weight: Weight of the shifts in the score of the study (`--score-weight-shift`).
        """
        return cls.select(index, split, split.development, split.folds[:, split.development], shift_weight)
