"""The sealed test, whose images can be read only after the access was logged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.dataset import Dataset
from bhsearch.data.images.decode import decode
from bhsearch.data.splits import Split
from bhsearch.evaluation.image_columns import ImageColumns
from bhsearch.evaluation.predictions import Predictions
from bhsearch.lifecycle.restore import rows_of, sealed_digest
from bhsearch.study.events import ProgressReporter

if TYPE_CHECKING:
    from bhsearch.tracking.access_log import LoggedAccess


class SealedTest:
    """The images of the sealed test.

    Only this class reads test images for features, predictions, metrics or pictures.

    Args:
        index: The whole data set.
        split: Split of the whole data set.
        access: The logged access, which only `tracking.access_log.log_access` creates.

    Raises:
        TypeError: If `access` is not a logged access.
        ValueError: If the access was logged for other images.
    """

    def __init__(self, index: Dataset, split: Split, access: LoggedAccess) -> None:
        from bhsearch.tracking.access_log import LoggedAccess

        if not isinstance(access, LoggedAccess):
            raise TypeError(f"`access` must be a LoggedAccess from `log_access`, but got {access!r}.")
        if access.sealed != sealed_digest(index, split):
            raise ValueError(
                f"`access` was logged for another test set (digest {access.sealed}). Log the access to this test set "
                "with `log_access`."
            )
        self.access = access
        self._index, self._split = index, split
        self._files = index.select(split.test).paths()

    def __len__(self) -> int:
        return len(self._files)

    def image(self, row: int) -> npt.NDArray[np.uint8]:
        """Return the test image at a position as uint8 RGB. Shape (height, width, 3)."""
        return decode(self._files[row])

    def probabilities(
        self, network: Any, what: str, reporter: ProgressReporter, vectors: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Run a network on every image of the test.

        Args:
            network: Keras model from uint8 RGB, or from vectors, to P(malignant).
            what: Name of the reported step.
            reporter: Receives progress events.
            vectors: Name of the vectors that the network takes; None if it takes images.

        Returns:
            P(malignant). Shape (n_images,).
        """
        from bhsearch.models.calibrated import predict_images, predict_vectors

        with reporter.step(what) as progress:
            if vectors is not None:
                taken = self._index.vectors[vectors].select(self._split.test).read()
                return np.fromiter(predict_vectors(network, taken), np.float32, len(self))

            def images() -> Iterator[npt.NDArray[np.uint8]]:
                for row in range(len(self)):
                    yield self.image(row)
                    progress(row + 1, len(self))

            return np.fromiter(predict_images(network, images()), np.float32, len(self))

    def predictions(self, probability: npt.NDArray[np.float32]) -> Predictions:
        """Return probabilities of all test images as `Predictions` with a single fold.

        Args:
            probability: P(malignant). Shape (n_images,).
        """
        one_fold = np.zeros((1, len(self)), np.int8)
        return ImageColumns.select(self._index, self._split, self._split.test, one_fold).predictions(probability[None])

    def lineage(self) -> dict[str, dict[str, list[str]]]:
        """Return case and pixel digest of each development and test image, in the form that the gate compares."""
        parts = {"development": self._split.development, "test": self._split.test}
        return {name: rows_of(self._index, rows) for name, rows in parts.items()}
