"""Predictions within the training part of each fold, on which the weights of an ensemble are fitted.

The out-of-fold predictions of a trial cannot be used to fit ensemble weights that are scored on fold k: those for the
other folds come from heads that were trained on the labels of fold k. Therefore the heads of a trial are trained again
without each pair of folds. The heads without folds k and j predict fold j for the weights of fold k, and fold k for the
weights of fold j. The heads of all pairs are trained together.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array
from bhsearch.data.splits import training_mask, validation_mask
from bhsearch.objectives.scoring import ValidationFolds, padded_rows


class FoldPairs(ValidationFolds):
    """Training and validation images of heads that are trained without two folds, one fold model per pair of folds.

    With these instead of `ValidationFolds`, `FrozenObjective.predictions` returns P(malignant) for the weights of each
    fold of each repeat, shape (n_repeats * n_folds, n_images): for the images of the other folds, the inner out-of-fold
    predictions within the training part of the fold. The probabilities of the fold's own images have no meaning.

    Args:
        fold: Validation fold of each image in each repeat, with at least three folds. Shape (n_repeats, n_images).
    """

    def __init__(self, fold: npt.NDArray[np.int8]) -> None:
        super().__init__(fold)
        self._of_folds = dict(zip(self.repeat_folds, self._rows, strict=True))
        self._pairs = [
            (repeat, *pair) for repeat in range(len(fold)) for pair in combinations(range(int(fold.max()) + 1), 2)
        ]
        self.training = np.stack(
            [training_mask(fold, repeat, k) & ~validation_mask(fold, repeat, j) for repeat, k, j in self._pairs]
        )
        self._rows = [np.concatenate([self._of_folds[r, k], self._of_folds[r, j]]) for r, k, j in self._pairs]
        self.padded = padded_rows(self._rows)

    def scatter(self, logits: Float32Array) -> Float32Array:
        """Return the logits for the weights of each fold, in the order of the images.

        Args:
            logits: Logits of the validation images of each pair. Shape (n_pairs, n_held_out).

        Returns:
            Logits; 0 for the images of the fold itself. Shape (n_repeats * n_folds, n_images).
        """
        placed = np.zeros((len(self.repeat_folds), self._shape[1]), np.float32)
        row = {repeat_fold: number for number, repeat_fold in enumerate(self.repeat_folds)}
        for (repeat, k, j), values in zip(self._pairs, logits, strict=True):
            first, second = self._of_folds[repeat, k], self._of_folds[repeat, j]
            placed[row[repeat, j], first] = values[: len(first)]
            placed[row[repeat, k], second] = values[len(first) : len(first) + len(second)]
        return placed


def with_own_fold(inner: Float32Array, out_of_fold: Float32Array, fold: npt.NDArray[np.int8]) -> Float32Array:
    """Insert the out-of-fold predictions of each fold's own images.

    Args:
        inner: Inner out-of-fold predictions; see `FoldPairs`. Shape (n_repeats * n_folds, n_images).
        out_of_fold: Out-of-fold predictions of the same trial. Shape (n_repeats, n_images).
        fold: Validation fold of each image in each repeat. Shape (n_repeats, n_images).

    Returns:
        Predictions for the weights of each fold. Shape (n_repeats * n_folds, n_images).
    """
    n_folds = int(fold.max()) + 1
    by_repeat = inner.reshape(len(fold), n_folds, -1)
    own = fold[:, None, :] == np.arange(n_folds)[:, None]
    return np.asarray(np.where(own, out_of_fold[:, None, :], by_repeat).reshape(inner.shape), np.float32)
