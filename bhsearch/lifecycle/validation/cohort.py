"""An external cohort, whose images can be read only after the access was logged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bhsearch.config import Settings
from bhsearch.data.dataset import Dataset
from bhsearch.data.grouping import case_keys, merge_groups
from bhsearch.data.images.decode import decode
from bhsearch.data.layouts.naming import spelling_key
from bhsearch.data.open_data import open_selected
from bhsearch.data.stratify import strata_of
from bhsearch.evaluation.predictions import TEXT_COLUMNS, Predictions
from bhsearch.lifecycle.restore import digest_of_set
from bhsearch.study.context import announce_synthetic
from bhsearch.study.events import ProgressReporter
from bhsearch.tasks import Task, task_of

if TYPE_CHECKING:
    from bhsearch.tracking.validation_log import CohortContent, LoggedCohortAccess


class Cohort:
    """The images of an external cohort, grouped as the images of a study are.

    Args:
        index: The data set; it may have a single class.

    Attributes:
        index: The data set.
        group: Number of the group of cases of each image. Shape (n_images,).
        digest: Digest of the set of images, computed from their pixels and independent of their order.
    """

    def __init__(self, index: Dataset) -> None:
        self.index = index
        cases = case_keys(index)
        self.group = merge_groups(cases, index.column("pixels_digest"), by_spelling=index.has_cases)
        self.digest = digest_of_set(index.column("pixels_digest").tolist())

    def __len__(self) -> int:
        return len(self.index)

    @property
    def content(self) -> CohortContent:
        """Images and cases, by which overlapping cohorts are recognised."""
        from bhsearch.tracking.validation_log import CohortContent

        named = self.index.has_cases and not self.index.synthetic  # all synthetic data sets have the same case names
        cases = self.index.column("case").tolist() if named else []
        images = frozenset(self.index.column("pixels_digest").tolist())
        return CohortContent(self.digest, images, frozenset(map(spelling_key, cases)))

    @property
    def task(self) -> Task:
        """Task that the classes of the cohort define."""
        return task_of(self.index)

    @property
    def n_groups(self) -> int:
        """Number of groups of cases."""
        return int(self.group.max()) + 1

    def images(self, access: LoggedCohortAccess) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield every image as uint8 RGB, in the order of the rows. Shape (height, width, 3) each.

        Args:
            access: The logged access, which only `tracking.validation_log.log_cohort_access` creates.

        Raises:
            TypeError: If `access` is not a logged access.
            ValueError: If the access was logged for other images.
        """
        self._check(access)
        return map(decode, self.index.paths())

    def vectors(self, access: LoggedCohortAccess, name: str) -> npt.NDArray[np.float32]:
        """Return the vectors of every image, in the order of the rows; see `images`. Shape (n_images, n_features)."""
        self._check(access)
        return self.index.vectors[name].read()

    def _check(self, access: LoggedCohortAccess) -> None:
        from bhsearch.tracking.validation_log import LoggedCohortAccess

        if not isinstance(access, LoggedCohortAccess):
            raise TypeError(f"Images of a cohort need the access that log_cohort_access returned, but got {access!r}.")
        if access.cohort != self.digest:
            raise ValueError(f"The access must be logged for this cohort ({self.digest}), but is for {access.cohort}.")

    def predictions(self, probability: npt.NDArray[np.float32]) -> Predictions:
        """Return probabilities of all images as `Predictions` with a single fold.

        Args:
            probability: P(malignant). Shape (n_images,).
        """
        texts: dict[str, Any] = {name: self.index.column(name) for name in TEXT_COLUMNS}
        return Predictions(
            label=self.index.labels,
            probability=probability[None],
            fold=np.zeros((1, len(self)), np.int8),
            group=self.group,
            stratum=strata_of(self.group, self.index.labels)[self.group],
            **texts,
        )

    def restrict(self, predictions: Predictions, rows: npt.NDArray[np.bool_]) -> Predictions:
        """Return the predictions of some images, with strata from the labels of these images.

        Args:
            predictions: Predictions of all images.
            rows: Mask of the images. Shape (n_images,).
        """
        chosen = predictions.select(rows)
        _, number = np.unique(chosen.group, return_inverse=True)
        return replace(chosen, stratum=strata_of(number, chosen.label)[number])


def open_cohort(settings: Settings, reporter: ProgressReporter) -> Cohort:
    """Open the data set that the settings name, with the magnification that they select.

    Raises:
        DataError: If the data cannot be used.
        SettingsError: If an option does not fit the data.
    """
    announce_synthetic(settings.data, reporter)
    with reporter.step("reading images") as progress:
        _, index = open_selected(settings, both_classes=False, progress=progress)
    return Cohort(index)
