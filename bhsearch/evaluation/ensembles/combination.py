"""Out-of-fold predictions of an ensemble, whose weights for a fold are fitted without any influence of this fold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from bhsearch.evaluation import calibration
from bhsearch.evaluation.ensembles.greedy import greedy_weights
from bhsearch.evaluation.ensembles.stack import stack_weights
from bhsearch.evaluation.metrics import MetricFunction, score_function
from bhsearch.evaluation.predictions import FloatArray, LabelArray, Predictions, six_digits
from bhsearch.tasks.base import Task

_LEAST = 1e-6  # probabilities are clipped for logits


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of the members of an ensemble in one fold model.

    Attributes:
        members: Weight of each member, 0 or more. Shape (n_members,).
        intercept: Intercept of the logits; 0 if probabilities are averaged.
        on_logits: Whether logits are combined; otherwise the probabilities are averaged.
    """

    members: FloatArray
    intercept: float
    on_logits: bool

    def combine(self, probability: npt.NDArray[np.floating]) -> FloatArray:
        """Return P(malignant) of the ensemble.

        Args:
            probability: P(malignant) of each member. Shape (n_members, n_images).
        """
        if not self.on_logits:
            return np.asarray(self.members @ probability.astype(np.float64))
        return np.asarray(expit(self.members @ logit(probability) + self.intercept))


# Function (probability, label, fold, weight, metric) -> weights of one fold model.
Method = Callable[[FloatArray, LabelArray, npt.NDArray[np.int8], FloatArray, MetricFunction], Weights]


def logit(probability: npt.NDArray[np.floating]) -> FloatArray:
    """Return the logits of probabilities, which are clipped to 1e-6 to 1 - 1e-6. Any shape."""
    return calibration.logit(probability, _LEAST)


def greedy(
    probability: FloatArray, label: LabelArray, fold: npt.NDArray[np.int8], weight: FloatArray, metric: MetricFunction
) -> Weights:
    """Return the weights of greedy selection; see `greedy_weights`."""
    return Weights(greedy_weights(probability, label, fold, weight, metric), 0.0, on_logits=False)


def stack(
    probability: FloatArray,
    label: LabelArray,
    fold: npt.NDArray[np.int8],  # noqa: ARG001  # of all methods
    weight: FloatArray,
    metric: MetricFunction,  # noqa: ARG001
) -> Weights:
    """Return the weights of a stack; see `stack_weights`."""
    return Weights(*stack_weights(logit(probability), label, weight), on_logits=True)


def fit_ensemble(
    probability: npt.NDArray[np.floating], predictions: Predictions, task: Task, method: Method
) -> tuple[list[Weights], Predictions]:
    """Fit the weights of each fold model on the other folds, and predict the images of the fold.

    Args:
        probability: P(malignant) of each member for the weights of each fold of each repeat; see
            `objectives.inner_folds.with_own_fold`. The weights of a fold are fitted on the images of the other folds.
            Shape (n_members, n_repeats * n_folds, n_images).
        predictions: Labels, folds and groups of the images.
        task: Task that names the score.
        method: Function that fits the weights.

    Returns:
        Weights of each fold model, and the out-of-fold predictions of the ensemble.
    """
    fitted: list[Weights] = []
    out_of_fold = np.empty(predictions.fold.shape, np.float32)
    for repeat, fold in enumerate(predictions.fold):
        for k in range(predictions.n_folds):
            own, of_fold = fold == k, probability[:, repeat * predictions.n_folds + k]
            weights = method(
                of_fold[:, ~own].astype(np.float64),
                predictions.label[~own],
                fold[~own],
                predictions.weight[repeat, ~own],
                score_function(task),
            )
            fitted.append(weights)
            out_of_fold[repeat, own] = six_digits(weights.combine(of_fold[:, own]))
    return fitted, replace(predictions.unchanged, probability=out_of_fold)
