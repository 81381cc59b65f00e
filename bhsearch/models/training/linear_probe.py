"""Linear probes and small heads on frozen features, trained together for all folds and repeats.

There is one fold model (a head) per fold and repeat. All fold models receive the same batches of features, and the
training weights of a fold model are zero for its validation rows. Fold models are independent of each other, since the
optimizer acts element by element and gradients are clipped per fold model. One fit therefore trains all heads and gives
all out-of-fold predictions.

Each fold model standardises features by the mean and standard deviation of its own training rows. Kernels are trained
for standardised features, but applied to raw features: the standard deviation is included in the kernel and the mean in
the bias, so that one matrix product computes all fold models.

Source:
    The joint training of all folds is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array
from bhsearch.models import backend
from bhsearch.models.losses import LOSSES
from bhsearch.models.training.optimizers import EPSILON, bias_corrections, learning_rates, optimizer_step

BATCH = 128
_MAX_GRADIENT_NORM = 5.0  # maximum norm of the gradient of a fold model


@dataclass(frozen=True)
class HeadParams:
    """Training parameters of the heads of a trial. For default values see `bhsearch.objectives.space`.

    Attributes:
        hidden_units: Units of the hidden layer; 0 for a linear head.
        dropout: Dropout rate of inputs (linear head) or hidden units, 0 to below 1.
        optimizer: `adamw` or `sgd` (Nesterov momentum), both with decoupled weight decay.
        learning_rate: Initial learning rate.
        schedule: `constant`, or `cosine` down to zero.
        weight_decay: Decoupled weight decay of the kernel, multiplied by the learning rate.
        label_smoothing: 0 to below 1.
        epochs: Passes over the rows.
        standardise: Whether to standardise features by statistics of each fold model's training rows.
    """

    hidden_units: int
    dropout: float
    optimizer: str
    learning_rate: float
    schedule: str
    weight_decay: float
    label_smoothing: float
    epochs: int
    standardise: bool


@dataclass(frozen=True, eq=False)
class Heads:
    """Trained heads for raw features; the standardisation is included in the weights.

    A head computes `hidden = relu(x @ kernel + bias)`, then `sum(hidden * output_weights) + output_bias`. A linear head
    has one hidden unit without relu, with an output weight of 1.

    Attributes:
        kernel: Shape (n_features, n_fold_models, n_hidden).
        bias: Shape (n_fold_models, n_hidden).
        output_weights: Shape (n_fold_models, n_hidden).
        output_bias: Shape (n_fold_models,).
        linear: Whether the heads have no hidden layer.
    """

    kernel: Float32Array
    bias: Float32Array
    output_weights: Float32Array
    output_bias: Float32Array
    linear: bool

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], linear: bool) -> Heads:
        """Restore heads from the arrays of `to_arrays`."""
        return cls(arrays["kernel"], arrays["bias"], arrays["top"], arrays["top_bias"], linear)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the weights by name, for the stored arrays of a trial."""
        # The names must not change, since stored files contain them.
        return {"kernel": self.kernel, "bias": self.bias, "top": self.output_weights, "top_bias": self.output_bias}

    def logits(self, features: Float32Array) -> Float32Array:
        """Compute the logits of all images for all fold models. Shape (n_images, n_fold_models)."""
        hidden = np.einsum("nd,dfh->nfh", features, self.kernel, optimize=True) + self.bias
        if not self.linear:
            hidden = np.maximum(hidden, 0.0)
        logits: Float32Array = (hidden * self.output_weights).sum(axis=-1) + self.output_bias
        return logits

    def held_out_logits(self, features: Float32Array, held_out: npt.NDArray[np.int64]) -> Float32Array:
        """Compute the logits of each fold model for its validation rows.

        Args:
            features: Raw features. Shape (n_images, n_features).
            held_out: Validation rows of each fold model. Shape (n_fold_models, n_held_out).

        Returns:
            Logits. Shape (n_fold_models, n_held_out).
        """
        hidden = np.matmul(features[held_out], self.kernel.transpose(1, 0, 2)) + self.bias[:, None, :]
        if not self.linear:
            hidden = np.maximum(hidden, 0.0)
        logits: Float32Array = (hidden * self.output_weights[:, None, :]).sum(axis=-1) + self.output_bias[:, None]
        return logits


@dataclass(frozen=True, eq=False)
class Fit:
    """Result of training all fold models.

    Attributes:
        heads: Heads after the last epoch, one per fold model.
        losses: Training loss of each epoch, averaged over fold models. Shape (n_epochs,).
        logits: Validation logits for the first view after each epoch. Shape (n_epochs, n_fold_models, n_held_out).
    """

    heads: Heads
    losses: Float32Array
    logits: Float32Array


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted sums of one view's features over the training rows of each fold model, in float64.

    Attributes:
        total: Sum of the weights. Shape (n_fold_models, 1).
        first: Weighted sum of the features. Shape (n_fold_models, n_features).
        second: Weighted sum of the squared features. Shape (n_fold_models, n_features).
    """

    total: npt.NDArray[np.float64]
    first: npt.NDArray[np.float64]
    second: npt.NDArray[np.float64]

    @classmethod
    def of(cls, features: Float32Array, weights: npt.NDArray[np.float64]) -> Moments:
        """Compute the weighted sums of one view.

        Args:
            features: Features of the view. Shape (n_images, n_features).
            weights: Weight of each row in each fold model. Shape (n_images, n_fold_models).
        """
        exact = features.astype(np.float64)
        return cls(weights.sum(axis=0)[:, None], weights.T @ exact, weights.T @ exact**2)


def standardisation(moments: list[Moments]) -> tuple[Float32Array, Float32Array]:
    """Compute mean and inverse standard deviation over several views. Shape (n_fold_models, n_features) each.

    The inverse standard deviation of a constant feature is 0.
    """
    total = np.sum([m.total for m in moments], axis=0)
    mean = np.sum([m.first for m in moments], axis=0) / total
    variance = np.maximum(np.sum([m.second for m in moments], axis=0) / total - mean**2, 0.0)
    # The computed variance of a constant feature is a rounding error, which increases with the mean.
    inverse_deviation = np.where(variance > 1e-12 + 1e-10 * mean**2, 1.0 / np.sqrt(variance + 1e-12), 0.0)
    return mean.astype(np.float32), inverse_deviation.astype(np.float32)


def fit(
    views: Float32Array,
    labels: npt.NDArray[np.int8],
    weights: npt.NDArray[np.float64],
    held_out: npt.NDArray[np.int64],
    moments: list[Moments],
    params: HeadParams,
    seed: int,
    *,
    loss: str,
) -> Fit:
    """Train the heads of all fold models.

    Args:
        views: Features of each view, starting with the image itself. Shape (n_views, n_images, n_features).
        labels: 0 or 1. Shape (n_images,).
        weights: Training weight of each row in each fold model, including the class balance; zero for rows that the
            fold model must not be trained on. Shape (n_images, n_fold_models).
        held_out: Validation rows of each fold model, padded with arbitrary rows. Shape (n_fold_models, n_held_out).
        moments: Weighted sums of each view, for the standardisation.
        params: Training parameters of the trial.
        seed: Random seed for initial weights, order of rows, views and dropout.
        loss: Name of the training loss, a key of `models.losses.LOSSES`.
    """
    from keras import ops

    n_views, n_images, n_features = views.shape
    n_fold_models = weights.shape[1]
    random = np.random.default_rng(seed)
    mean, inverse_deviation = standardisation(moments)
    if not params.standardise:
        mean, inverse_deviation = np.zeros_like(mean), np.ones_like(inverse_deviation)
    linear = params.hidden_units == 0
    start = _initial_parameters(n_features, n_fold_models, params.hidden_units, random)
    slots = [np.zeros_like(p) for p in start]
    # Scale weights to a mean of 1 per fold model, so that the effect of the learning rate does not depend on fold size.
    relative_weights = (weights * (n_images / weights.sum(axis=0))).astype(np.float32)
    target = (labels * (1 - params.label_smoothing) + params.label_smoothing / 2).astype(np.float32)
    stacked_views = ops.convert_to_tensor(views.reshape(n_views * n_images, n_features))
    data = tuple(map(ops.convert_to_tensor, (target, relative_weights, mean, inverse_deviation, views[0][held_out])))
    settings = ops.convert_to_tensor(np.array([params.optimizer == "adamw", params.weight_decay], np.float32))
    state = tuple(tuple(map(ops.convert_to_tensor, group)) for group in (start, slots, slots))
    epoch = _compiled_epoch(linear, loss)
    losses, curves = [], []
    for inputs in _epoch_inputs(n_images, n_views, n_features, params, random):
        state, loss, logits = epoch(state, stacked_views, data, settings, *map(ops.convert_to_tensor, inputs))
        losses.append(loss)
        curves.append(logits)
    final = [np.asarray(p) for p in state[0]]
    return Fit(
        _unstandardised(final, mean, inverse_deviation, linear),
        np.array([float(loss) for loss in losses], np.float32),
        np.stack([np.asarray(logits) for logits in curves]),
    )


def _initial_parameters(
    n_features: int, n_fold_models: int, hidden: int, random: np.random.Generator
) -> list[Float32Array]:
    """Draw initial parameters, which are the same for all fold models."""
    width = max(hidden, 1)
    scale = 0.0 if hidden == 0 else math.sqrt(2.0 / n_features)
    kernel = np.repeat(random.normal(0.0, 1.0, (n_features, 1, width)) * scale, n_fold_models, axis=1)
    output_weights = np.repeat(random.normal(0.0, 1.0, (1, width)) / math.sqrt(width), n_fold_models, axis=0)
    bias = np.zeros((n_fold_models, width))
    parts = [kernel, bias] if hidden == 0 else [kernel, bias, output_weights, np.zeros(n_fold_models)]
    return [np.ascontiguousarray(part, np.float32) for part in parts]


def _epoch_inputs(
    n_images: int, n_views: int, n_features: int, params: HeadParams, random: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Float32Array, Float32Array, Float32Array]]:
    """Iterate over the inputs of each epoch.

    An epoch uses one random view of each image. The last batch is filled up with the first rows of the epoch.

    Yields:
        Rows of images and rows of stacked views, each of shape (n_steps, batch), learning rates, shape (n_steps,), bias
        corrections, shape (n_steps, 2), and dropout masks, shape (n_steps, batch, n_masked) or (n_steps, 1, 1).
    """
    batch = min(BATCH, n_images)
    steps = math.ceil(n_images / batch)
    n_masked = params.hidden_units or n_features
    rate = learning_rates(params.learning_rate, params.schedule, params.epochs * steps)
    for epoch in range(params.epochs):
        order = random.permutation(n_images)
        rows = np.resize(order, (steps, batch)).astype(np.int32)
        view_rows = (random.integers(0, n_views, n_images)[rows] * n_images + rows).astype(np.int32)
        number = epoch * steps + np.arange(steps)
        if params.dropout > 0:
            random_bytes = np.frombuffer(random.bytes(steps * batch * n_masked), np.uint8).reshape(
                steps, batch, n_masked
            )
            kept_units = random_bytes >= round(params.dropout * 256)
            masks = kept_units.astype(np.float32) / np.float32(1 - round(params.dropout * 256) / 256)
        else:
            masks = np.ones((steps, 1, 1), np.float32)
        yield rows, view_rows, rate[number], bias_corrections(number), masks


@cache
def _compiled_epoch(linear: bool, loss_name: str) -> Callable[..., Any]:
    """Return a compiled function that trains one epoch, for all numbers of units and all hyperparameters.

    Args:
        linear: Whether the heads are linear.
        loss_name: Name of the training loss.
    """
    from keras import ops

    forward = _linear_forward if linear else _hidden_forward

    def loss(parameters: Any, x: Any, mask: Any, target: Any, weight: Any, mean: Any, inverse_deviation: Any) -> Any:
        logits = forward(parameters, x, mask, mean, inverse_deviation)
        entropy = LOSSES[loss_name](logits, target[:, None])
        return ops.sum(ops.mean(entropy * weight, axis=0))

    gradient = backend.value_and_grad(loss)

    def epoch(
        state: Any,
        stacked_views: Any,
        data: Any,
        settings: Any,
        rows: Any,
        view_rows: Any,
        learning_rates: Any,
        bias_corrections: Any,
        masks: Any,
    ) -> Any:
        target, relative_weights, mean, inverse_deviation, held_out = data

        def step(number: Any, carry: Any) -> Any:
            parameters, first, second, total = carry
            at = ops.take(rows, number, axis=0)
            value, gradients = gradient(
                list(parameters),
                ops.take(stacked_views, ops.take(view_rows, number, axis=0), axis=0),
                ops.take(masks, number, axis=0),
                ops.take(target, at, axis=0),
                ops.take(relative_weights, at, axis=0),
                mean,
                inverse_deviation,
            )
            rate, correction = ops.take(learning_rates, number), ops.take(bias_corrections, number, axis=0)
            adam, decay = settings[0], settings[1]
            updated = [
                optimizer_step(
                    *item, rate, correction, adam, decay if len(item[0].shape) == 3 else None
                )  # kernels decay
                for item in zip(parameters, first, second, _clipped(gradients), strict=True)
            ]
            parameters, first, second = (tuple(part) for part in zip(*updated, strict=True))
            return parameters, first, second, total + value

        carry = (*state, ops.zeros((), "float32"))
        parameters, first, second, total = ops.fori_loop(0, ops.shape(rows)[0], step, carry)
        n_fold_models = ops.cast(ops.shape(mean)[0], "float32")
        share = total / ops.cast(ops.shape(rows)[0], "float32") / n_fold_models
        return (
            (parameters, first, second),
            share,
            _held_out_logits(parameters, held_out, mean, inverse_deviation, linear),
        )

    return backend.compiled(epoch)


def _clipped(gradients: Any) -> list[Any]:
    """Clip the norm of each fold model's gradient, over all of its parameters, to `_MAX_GRADIENT_NORM`.

    Without clipping, SGD diverges on features that are not standardised.
    """
    from keras import ops

    kernel, *rest = gradients
    squares = ops.sum(ops.square(kernel), axis=(0, 2))
    for gradient in rest:
        squares = squares + ops.sum(ops.reshape(ops.square(gradient), (ops.shape(squares)[0], -1)), axis=1)
    factor = ops.minimum(1.0, _MAX_GRADIENT_NORM / (ops.sqrt(squares) + EPSILON))
    others = [gradient * (factor[:, None] if len(gradient.shape) == 2 else factor) for gradient in rest]
    return [kernel * factor[None, :, None], *others]


def _linear_forward(parameters: Any, x: Any, mask: Any, mean: Any, inverse_deviation: Any) -> Any:
    """Compute logits of linear heads. Shape (batch, n_fold_models).

    Dropout applies to standardised features, so the dropout mask is applied to both the raw features and their mean.
    """
    from keras import ops

    kernel, bias = parameters
    scaled = kernel[:, :, 0] * ops.transpose(inverse_deviation)
    dropout_mask = mask * ops.ones_like(x)
    return ops.matmul(x * dropout_mask, scaled) - ops.matmul(dropout_mask, scaled * ops.transpose(mean)) + bias[:, 0]


def _hidden_forward(parameters: Any, x: Any, mask: Any, mean: Any, inverse_deviation: Any) -> Any:
    """Compute logits of heads with a hidden layer. Shape (batch, n_fold_models).

    All fold models share one dropout mask of the hidden units.
    """
    from keras import ops

    kernel, bias, output_weights, output_bias = parameters
    scaled = kernel * ops.transpose(inverse_deviation)[:, :, None]
    offset = bias - ops.sum(scaled * ops.transpose(mean)[:, :, None], axis=0)
    n_features, n_fold_models, n_hidden = (ops.shape(kernel)[k] for k in range(3))
    stacked_views = ops.matmul(x, ops.reshape(scaled, (n_features, n_fold_models * n_hidden)))
    hidden = ops.relu(ops.reshape(stacked_views, (-1, n_fold_models, n_hidden)) + offset) * ops.expand_dims(mask, 1)
    return ops.sum(hidden * output_weights, axis=-1) + output_bias


def _held_out_logits(parameters: Any, held_out: Any, mean: Any, inverse_deviation: Any, linear: bool) -> Any:
    """Compute the logits of each fold model for its validation rows. Shape (n_fold_models, n_held_out)."""
    from keras import ops

    by_fold_model = (held_out - mean[:, None, :]) * inverse_deviation[:, None, :]
    kernel = ops.transpose(parameters[0], (1, 0, 2))
    hidden = ops.matmul(by_fold_model, kernel) + parameters[1][:, None, :]
    if linear:
        return hidden[:, :, 0]
    return ops.sum(ops.relu(hidden) * parameters[2][:, None, :], axis=-1) + parameters[3][:, None]


def _unstandardised(
    parameters: list[Float32Array], mean: Float32Array, inverse_deviation: Float32Array, linear: bool
) -> Heads:
    scaled = parameters[0].astype(np.float64) * inverse_deviation.T[:, :, None]
    bias = parameters[1] - (scaled * mean.T[:, :, None]).sum(axis=0)
    kernel = scaled.astype(np.float32)
    n_fold_models = kernel.shape[1]
    if linear:
        one, zero = np.ones((n_fold_models, 1), np.float32), np.zeros(n_fold_models, np.float32)
        return Heads(kernel, bias.astype(np.float32), one, zero, True)
    return Heads(kernel, bias.astype(np.float32), parameters[2], parameters[3], False)
