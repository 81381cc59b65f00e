"""Scores and losses of out-of-fold predictions during training, with equal weight for every group of a fold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array
from bhsearch.data.splits import training_mask, validation_mask
from bhsearch.evaluation.metrics import epoch_scores, score_function
from bhsearch.evaluation.predictions import FloatArray, case_weights, six_digits
from bhsearch.models.training.heads import Heads
from bhsearch.tasks import Task


def sigmoid(logits: Float32Array) -> Float32Array:
    """Return the sigmoid of logits in float32, computed without overflow."""
    return (1.0 / (1.0 + np.exp(-np.clip(logits, -80.0, 80.0)))).astype(np.float32)


def binary_cross_entropy(logits: Float32Array, label: npt.NDArray[np.int8]) -> npt.NDArray[np.floating]:
    """Return the binary cross-entropy of each image. Shape (n,)."""
    return np.asarray(np.logaddexp(0.0, logits) - logits * label)


# The functions of `models.losses` in NumPy. Keys are the values of `Task.link` and `Task.loss`.
LINKS: dict[str, Callable[[Float32Array], Float32Array]] = {"sigmoid": sigmoid}
LOSSES: dict[str, Callable[[Float32Array, npt.NDArray[np.int8]], npt.NDArray[Any]]] = {
    "binary_cross_entropy": binary_cross_entropy
}


class ValidationFolds:
    """The validation images of each fold model, in the order of repeats and folds.

    Args:
        fold: Validation fold of each image in each repeat. Shape (n_repeats, n_images).

    Attributes:
        repeat_folds: Repeat and fold of each fold model.
        training: Mask of the training images of each fold model. Shape (n_fold_models, n_images).
        padded: Indices of the validation images of each fold model, padded with arbitrary images. Shape
            (n_fold_models, n_held_out).
    """

    def __init__(self, fold: npt.NDArray[np.int8]) -> None:
        self._shape = fold.shape
        self.repeat_folds = [(repeat, k) for repeat in range(len(fold)) for k in range(int(fold.max()) + 1)]
        self.training = np.stack([training_mask(fold, repeat, k) for repeat, k in self.repeat_folds])
        self._rows = [np.flatnonzero(validation_mask(fold, repeat, k)) for repeat, k in self.repeat_folds]
        self.padded = padded_rows(self._rows)

    def scatter(self, logits: Float32Array) -> Float32Array:
        """Return logits in the order of the images.

        Args:
            logits: Logits of the validation images of each fold model. Shape (n_fold_models, n_held_out).

        Returns:
            Logits of all images in each repeat. Shape (n_repeats, n_images).
        """
        placed = np.empty(self._shape, np.float32)
        for (repeat, _), rows, values in zip(self.repeat_folds, self._rows, logits, strict=True):
            placed[repeat, rows] = values[: len(rows)]
        return placed

    def out_of_fold(
        self, heads: Heads, views: Iterable[Float32Array], link: Callable[[Float32Array], Float32Array]
    ) -> Float32Array:
        """Return P(malignant) of each image by the head of its validation fold, as the mean over views.

        Args:
            heads: Heads of all fold models.
            views: Features of the images in each view. Shape (n_images, n_features) each.
            link: Link function of the task.

        Returns:
            Probabilities. Shape (n_repeats, n_images).
        """
        by_view = [link(self.scatter(heads.held_out_logits(features, self.padded))) for features in views]
        return six_digits(np.stack(by_view).mean(axis=0, dtype=np.float32))


def padded_rows(rows: list[npt.NDArray[np.intp]]) -> npt.NDArray[np.intp]:
    """Return lists of rows as one array, with shorter lists repeated to the length of the longest one."""
    longest = max(map(len, rows))
    return np.stack([np.resize(each, longest) for each in rows])


class OutOfFoldScorer:
    """Scores of out-of-fold predictions of the development images by the metric of a task.

    Args:
        label: Class of each image, 0 or 1. Shape (n_images,).
        fold: Validation fold of each image in each repeat. Shape (n_repeats, n_images).
        group: Group number of each image. Shape (n_images,).
        task: Task that names the link function, the loss and the metric.

    Attributes:
        probability: Link function of the task, which returns the probabilities of logits in float32. Any shape.
    """

    def __init__(
        self, label: npt.NDArray[np.int8], fold: npt.NDArray[np.int8], group: npt.NDArray[np.int64], task: Task
    ) -> None:
        self._label, self._fold, self._weight = label, fold, case_weights(group, fold)
        self._function, self._loss = score_function(task), LOSSES[task.loss]
        self.probability = LINKS[task.link]

    def epochs(self, probability: npt.NDArray[np.floating]) -> FloatArray:
        """Return the score of the predictions after each epoch; see `epoch_scores`.

        Args:
            probability: Out-of-fold P(malignant) after each epoch. Shape (n_epochs, n_repeats, n_images).
        """
        return epoch_scores(probability, self._label, self._fold, self._weight, self._function)

    def losses(self, probability: Float32Array) -> list[float]:
        """Return the case-weighted cross-entropy of the predictions after each epoch.

        Args:
            probability: Out-of-fold P(malignant) after each epoch. Shape (n_epochs, n_repeats, n_images).
        """
        right = np.where(self._label == 1, probability, 1 - probability)
        weight = self._weight / self._weight.sum()
        return [float(loss) for loss in -np.einsum("ern,rn->e", np.log(np.maximum(right, 1e-7)), weight)]

    def fold_score(self, repeat: int, rows: npt.NDArray[np.intp], probability: Float32Array) -> float:
        """Return the score of a fold.

        Args:
            repeat: Index of the repeat.
            rows: Indices of the validation images of the fold. Shape (n_held_out,).
            probability: P(malignant) of these images. Shape (n_held_out,).
        """
        return float(self._function(self._label[rows], probability, self._weight[repeat, rows]))

    def fold_loss(self, repeat: int, rows: npt.NDArray[np.intp], logits: Float32Array) -> float:
        """Return the loss of a fold.

        Args:
            repeat: Index of the repeat.
            rows: Indices of the validation images of the fold. Shape (n_held_out,).
            logits: Logits of these images. Shape (n_held_out,).
        """
        return float(np.average(self._loss(logits, self._label[rows]), weights=self._weight[repeat, rows]))
