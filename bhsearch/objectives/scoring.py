"""Scores and losses of out-of-fold predictions during training, with equal weight for every group of a fold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array
from bhsearch.evaluation.metrics import epoch_scores, score_function
from bhsearch.evaluation.predictions import FloatArray, case_weights
from bhsearch.tasks import Task


class OutOfFoldScorer:
    """Scores of out-of-fold predictions of the development images by the metric of a task.

    Args:
        label: Class of each image, 0 or 1. Shape (n_images,).
        fold: Validation fold of each image in each repeat. Shape (n_repeats, n_images).
        group: Group number of each image. Shape (n_images,).
        task: Task that names the metric.
    """

    def __init__(
        self, label: npt.NDArray[np.int8], fold: npt.NDArray[np.int8], group: npt.NDArray[np.int64], task: Task
    ) -> None:
        self._label, self._fold, self._weight = label, fold, case_weights(group, fold)
        self._function = score_function(task)

    def epochs(self, probability: npt.NDArray[np.floating]) -> FloatArray:
        """Return the score of the predictions after each epoch; see `epoch_scores`.

        Args:
            probability: Out-of-fold P(malignant) after each epoch. Shape (n_epochs, n_repeats, n_images).
        """
        return epoch_scores(probability, self._label, self._fold, self._weight, self._function)

    def fold_score(self, repeat: int, rows: npt.NDArray[np.intp], probability: Float32Array) -> float:
        """Return the score of a fold.

        Args:
            repeat: Index of the repeat.
            rows: Validation images of the fold. Shape (n_held_out,).
            probability: P(malignant) of these images. Shape (n_held_out,).
        """
        return float(self._function(self._label[rows], probability, self._weight[repeat, rows]))

    def fold_loss(self, repeat: int, rows: npt.NDArray[np.intp], logits: Float32Array) -> float:
        """Return the cross-entropy of a fold.

        Args:
            repeat: Index of the repeat.
            rows: Validation images of the fold. Shape (n_held_out,).
            logits: Logits of these images. Shape (n_held_out,).
        """
        entropy = np.logaddexp(0.0, logits) - logits * self._label[rows]
        return float(np.average(entropy, weights=self._weight[repeat, rows]))
