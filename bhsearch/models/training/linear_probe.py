"""Heads on frozen features: every fold of every repeat trained by one program.

A column is one fold of one repeat. All columns see the same batches of the same features; which rows a column learns
from is said by its weights, zero for the rows that it must not see. Nothing couples the columns: the update rules act
per element, and gradients are clipped column by column. So one fit gives every head and every out-of-fold prediction.

Each column standardises by its own training rows. The kernels stay in standardised space and the features raw: scale
goes into the kernel, mean into the bias, and one matrix product serves all columns.

Source:
    The fusion over folds is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.models import backend
from bhsearch.models.losses import LOSSES
from bhsearch.models.training.optimizers import EPSILON, bias_corrections, learning_rates, optimizer_step
from bhsearch.tasks.binary import BINARY

Array = npt.NDArray[np.float32]
BATCH = 128
_MAX_GRADIENT_NORM = 5.0  # norm of a column's gradient


@dataclass(frozen=True)
class HeadParams:
    """What a trial chooses of its heads. Sound values are in the table of the space, `bhsearch.objectives.space`.

    Attributes:
        hidden_units: Units of the hidden layer; 0 for a linear head.
        dropout: Share of inputs (linear) or hidden units left out in a step, 0 to below 1.
        optimizer: `adamw` or `sgd` (Nesterov momentum); both with decoupled weight decay.
        learning_rate: Of the first step.
        schedule: `constant`, or `cosine` down to zero.
        weight_decay: Share of the kernel taken off in a step, times the learning rate.
        label_smoothing: 0 to below 1.
        epochs: Passes over the rows.
        standardise: Whether a column standardises the features by its training rows.
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
    """Trained heads in the space of the raw features, standardisation folded in.

    A head gives `relu(x @ kernel + bias)` per hidden unit, then `sum(hidden * top) + top_bias`; a linear head has one
    hidden unit, no relu, and a top of one.

    Attributes:
        kernel: Shape (n_features, n_columns, n_hidden).
        bias: Shape (n_columns, n_hidden).
        top: Shape (n_columns, n_hidden).
        top_bias: Shape (n_columns,).
        linear: Whether the heads have no hidden layer.
    """

    kernel: Array
    bias: Array
    top: Array
    top_bias: Array
    linear: bool

    def logits(self, features: Array) -> Array:
        """Logits of all columns. Shape (n_images, n_columns)."""
        hidden = np.einsum("nd,dfh->nfh", features, self.kernel, optimize=True) + self.bias
        if not self.linear:
            hidden = np.maximum(hidden, 0.0)
        logits: Array = (hidden * self.top).sum(axis=-1) + self.top_bias
        return logits

    def held_out_logits(self, features: Array, held_out: npt.NDArray[np.int64]) -> Array:
        """Each column's logits on its own validation rows. `held_out` and the result: (n_columns, n_held_out)."""
        hidden = np.matmul(features[held_out], self.kernel.transpose(1, 0, 2)) + self.bias[:, None, :]
        if not self.linear:
            hidden = np.maximum(hidden, 0.0)
        logits: Array = (hidden * self.top[:, None, :]).sum(axis=-1) + self.top_bias[:, None]
        return logits


@dataclass(frozen=True, eq=False)
class Fit:
    """What training gave.

    Attributes:
        heads: One head per column.
        losses: Training loss, averaged over columns. Shape (n_epochs,).
        logits: Validation logits after each epoch, from the first view. Shape (n_epochs, n_columns, n_held_out).
    """

    heads: Heads
    losses: Array
    logits: Array


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted sums of one view's features over each column's training rows, in float64.

    Attributes:
        total: Weight, shape (n_columns, 1).
        first: Sum of weight x feature, shape (n_columns, n_features).
        second: Sum of weight x feature squared, of the same shape.
    """

    total: npt.NDArray[np.float64]
    first: npt.NDArray[np.float64]
    second: npt.NDArray[np.float64]

    @classmethod
    def of(cls, features: Array, weights: npt.NDArray[np.float64]) -> Moments:
        """Sum over rows. `features` (n_images, n_features), `weights` (n_images, n_columns)."""
        exact = features.astype(np.float64)
        return cls(weights.sum(axis=0)[:, None], weights.T @ exact, weights.T @ exact**2)


def standardisation(moments: list[Moments]) -> tuple[Array, Array]:
    """Mean and inverse deviation per column over several views. Each of shape (n_columns, n_features)."""
    total = np.sum([m.total for m in moments], axis=0)
    mean = np.sum([m.first for m in moments], axis=0) / total
    variance = np.maximum(np.sum([m.second for m in moments], axis=0) / total - mean**2, 0.0)
    # A constant feature says nothing: what is left of its variance is rounding, which grows with the mean.
    inverse = np.where(variance > 1e-12 + 1e-10 * mean**2, 1.0 / np.sqrt(variance + 1e-12), 0.0)
    return mean.astype(np.float32), inverse.astype(np.float32)


def fit(
    views: Array,
    labels: npt.NDArray[np.int8],
    weights: npt.NDArray[np.float64],
    held_out: npt.NDArray[np.int64],
    moments: list[Moments],
    params: HeadParams,
    seed: int,
) -> Fit:
    """Train one head per column.

    Args:
        views: Features per view, the image itself first. Shape (n_views, n_images, n_features).
        labels: 0 or 1. Shape (n_images,).
        weights: Training weight of each row in each column, zero where the column must not see the row; class balance
            included. Shape (n_images, n_columns).
        held_out: Rows that each column is validated on, padded with any row. Shape (n_columns, n_held_out).
        moments: Sums per view, for the standardisation.
        params: The trial's choices.
        seed: Of the start, the order of rows and the dropout; nothing else is random.

    Returns:
        The heads after the last epoch, and the curves.
    """
    from keras import ops

    n_views, n_images, n_features = views.shape
    n_columns = weights.shape[1]
    random = np.random.default_rng(seed)
    mean, inverse = standardisation(moments)
    if not params.standardise:
        mean, inverse = np.zeros_like(mean), np.ones_like(inverse)
    linear = params.hidden_units == 0
    start = _start(n_features, n_columns, params.hidden_units, random)
    slots = [np.zeros_like(p) for p in start]
    # A mean weight of one per column makes the loss, and with it the learning rate, mean the same at every fold size.
    relative = (weights * (n_images / weights.sum(axis=0))).astype(np.float32)
    target = (labels * (1 - params.label_smoothing) + params.label_smoothing / 2).astype(np.float32)
    flat = ops.convert_to_tensor(views.reshape(n_views * n_images, n_features))
    data = tuple(map(ops.convert_to_tensor, (target, relative, mean, inverse, views[0][held_out])))
    settings = ops.convert_to_tensor(np.array([params.optimizer == "adamw", params.weight_decay], np.float32))
    state = tuple(tuple(map(ops.convert_to_tensor, group)) for group in (start, slots, slots))
    epoch = _epoch_program(linear)
    losses, curves = [], []
    for plan in _plans(n_images, n_views, n_features, params, random):
        state, loss, logits = epoch(state, flat, data, settings, *map(ops.convert_to_tensor, plan))
        losses.append(loss)
        curves.append(logits)
    final = [np.asarray(p) for p in state[0]]
    return Fit(
        _unstandardised(final, mean, inverse, linear),
        np.array([float(loss) for loss in losses], np.float32),
        np.stack([np.asarray(logits) for logits in curves]),
    )


def _start(n_features: int, n_columns: int, hidden: int, random: np.random.Generator) -> list[Array]:
    """Every column starts from the same kernel, so that folds differ by their data alone."""
    width = max(hidden, 1)
    scale = 0.0 if hidden == 0 else math.sqrt(2.0 / n_features)
    kernel = np.repeat(random.normal(0.0, 1.0, (n_features, 1, width)) * scale, n_columns, axis=1)
    top = np.repeat(random.normal(0.0, 1.0, (1, width)) / math.sqrt(width), n_columns, axis=0)
    bias = np.zeros((n_columns, width))
    parts = [kernel, bias] if hidden == 0 else [kernel, bias, top, np.zeros(n_columns)]
    return [np.ascontiguousarray(part, np.float32) for part in parts]


def _plans(
    n_images: int, n_views: int, n_features: int, params: HeadParams, random: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Array, Array, Array]]:
    """What each epoch does: rows and views of its batches, learning rates, Adam's corrections, dropout masks.

    An epoch shows each image under one view drawn at random; the last batch is filled up from the front of the order.
    """
    batch = min(BATCH, n_images)
    steps = math.ceil(n_images / batch)
    n_masked = params.hidden_units or n_features
    rate = learning_rates(params.learning_rate, params.schedule, params.epochs * steps)
    for epoch in range(params.epochs):
        order = random.permutation(n_images)
        rows = np.resize(order, (steps, batch)).astype(np.int32)
        shown = (random.integers(0, n_views, n_images)[rows] * n_images + rows).astype(np.int32)
        number = epoch * steps + np.arange(steps)
        if params.dropout > 0:
            drawn = np.frombuffer(random.bytes(steps * batch * n_masked), np.uint8).reshape(steps, batch, n_masked)
            kept = drawn >= round(params.dropout * 256)
            masks = kept.astype(np.float32) / np.float32(1 - round(params.dropout * 256) / 256)
        else:
            masks = np.ones((steps, 1, 1), np.float32)
        yield rows, shown, rate[number], bias_corrections(number), masks


@cache
def _epoch_program(linear: bool) -> Callable[..., Any]:
    """The compiled epoch; one per kind of head, whatever the sizes and hyperparameters."""
    from keras import ops

    forward = _linear_forward if linear else _hidden_forward

    def loss(parameters: Any, seen: Any, mask: Any, target: Any, weight: Any, mean: Any, inverse: Any) -> Any:
        logits = forward(parameters, seen, mask, mean, inverse)
        entropy = LOSSES[BINARY.loss](logits, target[:, None])
        return ops.sum(ops.mean(entropy * weight, axis=0))

    gradient = backend.value_and_grad(loss)

    def epoch(
        state: Any,
        flat: Any,
        data: Any,
        settings: Any,
        rows: Any,
        shown: Any,
        learning_rates: Any,
        bias_corrections: Any,
        masks: Any,
    ) -> Any:
        target, relative, mean, inverse, held_out = data

        def step(number: Any, carry: Any) -> Any:
            parameters, first, second, total = carry
            at = ops.take(rows, number, axis=0)
            value, gradients = gradient(
                list(parameters),
                ops.take(flat, ops.take(shown, number, axis=0), axis=0),
                ops.take(masks, number, axis=0),
                ops.take(target, at, axis=0),
                ops.take(relative, at, axis=0),
                mean,
                inverse,
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
        n_columns = ops.cast(ops.shape(mean)[0], "float32")
        share = total / ops.cast(ops.shape(rows)[0], "float32") / n_columns
        return (parameters, first, second), share, _held_out_logits(parameters, held_out, mean, inverse, linear)

    return backend.compiled(epoch)


def _clipped(gradients: Any) -> list[Any]:
    """Shorten each column's gradient, all its parameters together, to `_MAX_GRADIENT_NORM`. Columns stay apart.

    Without it SGD on unscaled features of a wide network runs away.
    """
    from keras import ops

    kernel, *rest = gradients
    squares = ops.sum(ops.square(kernel), axis=(0, 2))
    for gradient in rest:
        squares = squares + ops.sum(ops.reshape(ops.square(gradient), (ops.shape(squares)[0], -1)), axis=1)
    factor = ops.minimum(1.0, _MAX_GRADIENT_NORM / (ops.sqrt(squares) + EPSILON))
    others = [gradient * (factor[:, None] if len(gradient.shape) == 2 else factor) for gradient in rest]
    return [kernel * factor[None, :, None], *others]


def _linear_forward(parameters: Any, seen: Any, mask: Any, mean: Any, inverse: Any) -> Any:
    """Logits, (batch, n_columns). Dropout acts on standardised features: the mask goes over the mean, too."""
    from keras import ops

    kernel, bias = parameters
    scaled = kernel[:, :, 0] * ops.transpose(inverse)
    keep = mask * ops.ones_like(seen)
    return ops.matmul(seen * keep, scaled) - ops.matmul(keep, scaled * ops.transpose(mean)) + bias[:, 0]


def _hidden_forward(parameters: Any, seen: Any, mask: Any, mean: Any, inverse: Any) -> Any:
    """Logits, (batch, n_columns). One dropout mask over the hidden units serves all columns."""
    from keras import ops

    kernel, bias, top, top_bias = parameters
    scaled = kernel * ops.transpose(inverse)[:, :, None]
    offset = bias - ops.sum(scaled * ops.transpose(mean)[:, :, None], axis=0)
    n_features, n_columns, n_hidden = (ops.shape(kernel)[k] for k in range(3))
    flat = ops.matmul(seen, ops.reshape(scaled, (n_features, n_columns * n_hidden)))
    hidden = ops.relu(ops.reshape(flat, (-1, n_columns, n_hidden)) + offset) * ops.expand_dims(mask, 1)
    return ops.sum(hidden * top, axis=-1) + top_bias


def _held_out_logits(parameters: Any, held_out: Any, mean: Any, inverse: Any, linear: bool) -> Any:
    """Each column's logits on its own validation rows only: a K-th of the work. Shape (n_columns, n_held_out)."""
    from keras import ops

    by_column = (held_out - mean[:, None, :]) * inverse[:, None, :]
    kernel = ops.transpose(parameters[0], (1, 0, 2))
    hidden = ops.matmul(by_column, kernel) + parameters[1][:, None, :]
    if linear:
        return hidden[:, :, 0]
    return ops.sum(ops.relu(hidden) * parameters[2][:, None, :], axis=-1) + parameters[3][:, None]


def _unstandardised(parameters: list[Array], mean: Array, inverse: Array, linear: bool) -> Heads:
    scaled = parameters[0].astype(np.float64) * inverse.T[:, :, None]
    bias = parameters[1] - (scaled * mean.T[:, :, None]).sum(axis=0)
    kernel = scaled.astype(np.float32)
    n_columns = kernel.shape[1]
    if linear:
        one, zero = np.ones((n_columns, 1), np.float32), np.zeros(n_columns, np.float32)
        return Heads(kernel, bias.astype(np.float32), one, zero, True)
    return Heads(kernel, bias.astype(np.float32), parameters[2], parameters[3], False)
