"""The binary task: two classes and one logit, which gives the probability of the second class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bhsearch.data.dataset import CLASS_NAMES
from bhsearch.data.stratify import strata_of
from bhsearch.errors import DataError


@dataclass(frozen=True)
class BinaryTask:
    """A task with a negative class, whose label is 0, and a positive class, whose label is 1.

    Attributes:
        class_names: Names of the negative and the positive class. For the other attributes, see `Task`.

    Raises:
        ValueError: If `class_names` does not consist of two different names.
    """

    class_names: tuple[str, ...] = CLASS_NAMES
    name: str = "binary"
    n_outputs: int = 1
    loss: str = "binary_cross_entropy"
    link: str = "sigmoid"
    score: str = "auc"
    metrics: tuple[str, ...] = (
        "auc",
        "balanced_accuracy",
        "sensitivity",
        "specificity",
        "f1",
        "average_precision",
        "recognition_rate",
        "brier",
        "ece",
    )
    threshold_rule: str = "balanced_accuracy"
    calibration: str = "platt"

    def __post_init__(self) -> None:
        if len(set(self.class_names)) != 2 or len(self.class_names) != 2:
            raise ValueError(f"A binary task must have two different class names, but got {self.class_names}.")

    def encode(self, class_name: str) -> int:
        """Return 0 for the negative and 1 for the positive class.

        Raises:
            DataError: If the task has no class of this name.
        """
        if class_name not in self.class_names:
            known = " and ".join(self.class_names)
            raise DataError(f"The classes of the task {self.name!r} are {known}, but got {class_name!r}.")
        return self.class_names.index(class_name)

    def strata(self, unit: npt.NDArray[np.int64], label: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
        """Assign units to strata by quartiles of their fraction of positive images; see `Task.strata`."""
        return strata_of(unit, label)
