"""The interface of a task: its classes and strata, and the names of its loss, metrics and decision rule."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt


class Task(Protocol):
    """A prediction task.

    A task refers to its loss, link function, metrics, threshold rule and calibration by name, so that it depends on no
    framework. The package `models` implements losses and link functions; the package `evaluation` implements the rest.
    """

    @property
    def name(self) -> str:
        """Name of the task, such as `binary`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; the label of a class is its index in this tuple."""

    @property
    def n_outputs(self) -> int:
        """Number of logits per image."""

    @property
    def loss(self) -> str:
        """Name of the training loss in `bhsearch.models.losses.LOSSES`."""

    @property
    def link(self) -> str:
        """Name of the link function from logits to probabilities, in `bhsearch.models.losses.LINKS`."""

    @property
    def score(self) -> str:
        """Name of the metric that the search maximises, in `bhsearch.evaluation.metrics.METRICS`.

        The metric must be computed from probabilities and per fold, and its function must also accept predictions with
        leading axes, of shape (..., n_images).
        """

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of a trial or a test, in `bhsearch.evaluation.metrics.METRICS`."""

    @property
    def threshold_rule(self) -> str:
        """Name of the rule that chooses the decision threshold, in `bhsearch.evaluation.thresholds.RULES`."""

    @property
    def calibration(self) -> str:
        """Name of the calibration method, in `bhsearch.evaluation.calibration.METHODS`."""

    def encode(self, class_name: str) -> int:
        """Return the label of a class.

        Raises:
            DataError: If the task has no class of this name.
        """

    def strata(self, unit: npt.NDArray[np.int64], label: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
        """Assign units, such as cases, to strata by the labels of their images.

        Args:
            unit: Unit number of each image, from 0 to n_units - 1; every unit must have an image. Shape (n_images,).
            label: Label of each image. Shape (n_images,).

        Returns:
            Stratum of each unit, numbered from 0 without gaps. Shape (n_units,).
        """
