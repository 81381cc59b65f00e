"""The development images of a study as columns, from which `Predictions` are built."""

from __future__ import annotations

from bhsearch.data.dataset import Dataset
from bhsearch.data.splits import Split
from bhsearch.evaluation.image_columns import ImageColumns


class DevelopmentImages(ImageColumns):
    """The images that a study may train and validate on, in the order of the data set."""

    @classmethod
    def of(cls, index: Dataset, split: Split) -> DevelopmentImages:
        """Return the development images of a data set and its split."""
        return cls.select(index, split, split.development, split.folds[:, split.development])
