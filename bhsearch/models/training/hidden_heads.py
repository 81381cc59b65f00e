"""Heads with one hidden layer on frozen features, trained together for all folds and repeats.

All fold models receive the same batches of features, and the training weights of a fold model are zero for its
validation rows. Fold models are independent of each other, since the optimizer acts element by element and gradients
are clipped per fold model. One fit therefore trains all heads and gives all out-of-fold predictions.

The objective of a fold model is that of scikit-learn's `MLPClassifier`: the mean loss plus `penalty / (2 n)` times the
sum of the squared weights of both layers, where n is the number of training images. The penalty thus has the meaning
that 1 / C has for the linear heads of `logistic_path`. Adam with a cosine schedule trains for a fixed number of steps,
in which the learning rate falls to zero. A head that a strong penalty shrinks to almost nothing predicts a constant.

Source:
    The joint training of all folds is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array
from bhsearch.errors import RunError
from bhsearch.models import backend
from bhsearch.models.training.blas import threads_for
from bhsearch.models.training.heads import Heads, Moments, standardisation
from bhsearch.models.training.hidden_epochs import EpochInputs, HostTraining, Problem
from bhsearch.models.training.hidden_epochs_device import DeviceTraining
from bhsearch.models.training.optimizers import bias_corrections, learning_rates

BATCH = 128
LEARNING_RATE = 0.01  # at the first step
_FEWEST_EPOCHS, _FEWEST_STEPS = 20, 160  # whichever is longer
_SMALLEST_DEVIATION = 0.05  # of a fold model's logits on its training images; below, the head has vanished


@dataclass(frozen=True, eq=False)
class Fit:
    """Result of training all fold models.

    Attributes:
        heads: Heads after the last epoch, one per fold model.
        losses: Training loss of each epoch without the penalty, averaged over fold models. Shape (n_epochs,).
        logits: Validation logits for the first view after each epoch. Shape (n_epochs, n_fold_models, n_held_out).
    """

    heads: Heads
    losses: Float32Array
    logits: Float32Array


def n_epochs(n_images: int) -> int:
    """Return the number of passes over the images, which is larger for few images."""
    return max(_FEWEST_EPOCHS, math.ceil(_FEWEST_STEPS / _n_steps(n_images)))


def _n_steps(n_images: int) -> int:
    """Return the number of steps per epoch."""
    return math.ceil(n_images / min(BATCH, n_images))


def fit(
    views: Float32Array,
    labels: npt.NDArray[np.int8],
    weights: npt.NDArray[np.float64],
    held_out: npt.NDArray[np.int64],
    moments: list[Moments],
    hidden_units: int,
    penalty: float,
    seed: int,
    *,
    loss: str,
    on_device: bool | None = None,
) -> Fit:
    """Train the heads of all fold models.

    Args:
        views: Features of each view, starting with the image itself. Shape (n_views, n_images, n_features).
        labels: 0 or 1. Shape (n_images,).
        weights: Training weight of each row in each fold model, including the class balance; zero for rows that the
            fold model must not be trained on. Shape (n_images, n_fold_models).
        held_out: Validation rows of each fold model, padded with arbitrary rows. Shape (n_fold_models, n_held_out).
        moments: Weighted sums of each view, for the standardisation.
        hidden_units: Units of the hidden layer, at least 1.
        penalty: L2 penalty of the weights, `alpha` of scikit-learn's `MLPClassifier`.
        seed: Random seed for initial weights, order of rows and views.
        loss: Name of the training loss, a key of `models.losses.LOSSES`.
        on_device: Whether to train with the backend of Keras instead of NumPy; None for Keras on a GPU, where it is
            faster. The inputs of both are the same, and their heads differ by rounding errors.

    Raises:
        RunError: If a fold model's hidden layer is dead, that is, no unit is active on any training image.
    """
    n_views, n_images, n_features = views.shape
    n_fold_models = weights.shape[1]
    random = np.random.default_rng(seed)
    mean, inverse_deviation = standardisation(moments)
    start = _initial_parameters(n_features, n_fold_models, hidden_units, random)
    # Scale weights to a mean of 1 per fold model, so that the effect of the learning rate does not depend on fold size.
    relative_weights = (weights * (n_images / weights.sum(axis=0))).astype(np.float32)
    decay = (penalty / (weights > 0).sum(axis=0)).astype(np.float32)
    problem = Problem(
        views.reshape(n_views * n_images, n_features),
        labels.astype(np.float32),
        relative_weights,
        mean,
        inverse_deviation,
        decay,
        views[0][held_out],
    )
    is_on_device = backend.has_gpu() if on_device is None else on_device
    train = DeviceTraining if is_on_device else HostTraining
    training = train(problem, start, loss)
    with threads_for(start[0].size):
        epochs = [training.epoch(inputs) for inputs in _epoch_inputs(n_images, n_views, random)]
    heads = _unstandardised(training.parameters(), mean, inverse_deviation)
    _check_active(heads, views, weights)
    heads = _without_vanished(heads, views[0], weights)
    logits = np.stack([np.asarray(each) for _, each in epochs])
    constant = ~heads.output_weights.any(axis=1)
    logits[-1, constant] = heads.output_bias[constant, None]
    return Fit(heads, np.array([float(value) for value, _ in epochs], np.float32), logits)


def _check_active(heads: Heads, views: Float32Array, weights: npt.NDArray[np.float64]) -> None:
    active = np.zeros(weights.shape[1], bool)
    for features in views:
        active |= ((heads.hidden(features) > 0).any(axis=-1) & (weights > 0)).any(axis=0)
    if not active.all():
        raise RunError(
            f"The hidden layer of fold model {int(np.argmin(active))} is dead: none of its {heads.kernel.shape[2]} "
            "units is active on any training image."
        )


def _without_vanished(heads: Heads, features: Float32Array, weights: npt.NDArray[np.float64]) -> Heads:
    """Replace heads that the penalty has shrunk to almost nothing by constant predictions.

    The optimum under such a penalty has no weights at all, which Adam approaches but does not reach. The order of the
    remaining predictions may have a high AUC, although they differ by nothing that a user could see.
    """
    logits = np.ma.masked_array(heads.logits(features), weights == 0)
    vanished = logits.std(axis=0).filled(0.0) < _SMALLEST_DEVIATION
    kept = ~vanished
    return replace(
        heads,
        output_weights=heads.output_weights * kept[:, None],
        output_bias=np.where(vanished, logits.mean(axis=0).filled(0.0), heads.output_bias).astype(np.float32),
    )


def _initial_parameters(
    n_features: int, n_fold_models: int, hidden_units: int, random: np.random.Generator
) -> list[Float32Array]:
    """Draw initial parameters, which are the same for all fold models."""
    scale = math.sqrt(2.0 / n_features)
    kernel = np.repeat(random.normal(0.0, scale, (n_features, 1, hidden_units)), n_fold_models, axis=1)
    output_weights = np.repeat(
        random.normal(0.0, 1.0 / math.sqrt(hidden_units), (1, hidden_units)), n_fold_models, axis=0
    )
    parts = [kernel, np.zeros((n_fold_models, hidden_units)), output_weights, np.zeros(n_fold_models)]
    return [np.ascontiguousarray(part, np.float32) for part in parts]


def _epoch_inputs(n_images: int, n_views: int, random: np.random.Generator) -> Iterator[EpochInputs]:
    """Iterate over the inputs of each epoch.

    An epoch uses one random view of each image. The last batch is filled up with the first rows of the epoch.
    """
    epochs, n_steps = n_epochs(n_images), _n_steps(n_images)
    rate = learning_rates(LEARNING_RATE, "cosine", epochs * n_steps)
    for epoch in range(epochs):
        rows = np.resize(random.permutation(n_images), (n_steps, min(BATCH, n_images))).astype(np.int32)
        view_rows = (random.integers(0, n_views, n_images)[rows] * n_images + rows).astype(np.int32)
        number = epoch * n_steps + np.arange(n_steps)
        yield EpochInputs(rows, view_rows, rate[number], bias_corrections(number))


def _unstandardised(parameters: list[Float32Array], mean: Float32Array, inverse_deviation: Float32Array) -> Heads:
    kernel, bias, output_weights, output_bias = parameters
    scaled = kernel.astype(np.float64) * inverse_deviation.T[:, :, None]
    offset = bias - (scaled * mean.T[:, :, None]).sum(axis=0)
    return Heads(scaled.astype(np.float32), offset.astype(np.float32), output_weights, output_bias, False)
