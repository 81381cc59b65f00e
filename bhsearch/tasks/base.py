"""The interface of a task: its classes and strata, and the names of its loss, metrics and decision rule."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt


class Task(Protocol):
    """A prediction task.

    A task names its loss, link, metrics, threshold rule and calibration, and does not implement them: `models` looks
    losses and links up by name, `evaluation` the rest. So a task depends on no framework.
    """

    @property
    def name(self) -> str:
        """Name of the task, such as `binary`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; the label of a class is its position."""

    @property
    def n_outputs(self) -> int:
        """Number of logits per image."""

    @property
    def loss(self) -> str:
        """Name of the training loss in `bhsearch.models.losses.LOSSES`."""

    @property
    def link(self) -> str:
        """Name of the function from logits to probabilities, in `bhsearch.models.losses.LINKS`."""

    @property
    def score(self) -> str:
        """Name of the metric that the search maximises, in `bhsearch.evaluation.metrics.METRICS`."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of a trial or test, in the same table."""

    @property
    def threshold_rule(self) -> str:
        """Name of the rule that sets the threshold, in `bhsearch.evaluation.thresholds.RULES`."""

    @property
    def calibration(self) -> str:
        """Name of the calibration method, in `bhsearch.evaluation.calibration.METHODS`."""

    def encode(self, class_name: str) -> int:
        """Return the label of a class.

        Raises:
            DataError: If the task has no class of that name.
        """

    def strata(self, unit: npt.NDArray[np.int64], label: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
        """Assign units to strata by the labels of their images.

        Args:
            unit: Unit number per image, 0 to n_units - 1, each with an image. Shape (n_images,).
            label: Label per image. Shape (n_images,).

        Returns:
            Stratum per unit, numbered from 0 with no gaps. Shape (n_units,).
        """
