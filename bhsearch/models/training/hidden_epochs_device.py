"""Epochs of the training of heads with one hidden layer, compiled by Keras's backend for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from bhsearch.data.arrays import Float32Array
from bhsearch.models import backend
from bhsearch.models.losses import LOSSES
from bhsearch.models.training.hidden_epochs import MAX_GRADIENT_NORM, EpochInputs, Problem
from bhsearch.models.training.optimizers import EPSILON, optimizer_step


class DeviceTraining:
    """Training of the heads of all fold models with Keras's backend; see `HostTraining`."""

    def __init__(self, problem: Problem, start: Sequence[Float32Array], loss: str) -> None:
        backend.require()
        from keras import ops

        self._put = ops.convert_to_tensor
        self._features = self._put(problem.features)
        self._data = tuple(
            map(
                self._put,
                (
                    problem.target,
                    problem.weights,
                    problem.mean,
                    problem.inverse_deviation,
                    problem.decay,
                    problem.held_out,
                ),
            )
        )
        slots = [np.zeros_like(part) for part in start]
        self._state = tuple(tuple(map(self._put, group)) for group in (start, slots, slots))
        self._epoch = _compiled_epoch(loss)

    def parameters(self) -> list[Float32Array]:
        """Return kernel, bias, output weights and output bias for standardised features."""
        return [np.asarray(part) for part in self._state[0]]

    def epoch(self, inputs: EpochInputs) -> tuple[Any, Any]:
        """Train one epoch; see `HostTraining.epoch`. The device may still compute the results when this returns."""
        given = map(self._put, (inputs.rows, inputs.view_rows, inputs.learning_rates, inputs.bias_corrections))
        self._state, value, logits = self._epoch(self._state, self._features, self._data, *given)
        return value, logits


@cache
def _compiled_epoch(loss_name: str) -> Callable[..., Any]:
    """Return a compiled function that trains one epoch, for all numbers of units and all penalties.

    Args:
        loss_name: Name of the training loss.
    """
    from keras import ops

    def loss(parameters: Any, x: Any, target: Any, weight: Any, mean: Any, inverse_deviation: Any) -> Any:
        logits = _forward(parameters, x, mean, inverse_deviation)
        entropy = LOSSES[loss_name](logits, target[:, None])
        return ops.sum(ops.mean(entropy * weight, axis=0))

    gradient = backend.value_and_grad(loss)

    def epoch(
        state: Any,
        stacked_views: Any,
        data: Any,
        rows: Any,
        view_rows: Any,
        learning_rates: Any,
        bias_corrections: Any,
    ) -> Any:
        target, relative_weights, mean, inverse_deviation, decay, held_out = data

        def step(number: Any, carry: Any) -> Any:
            parameters, first, second, total = carry
            at = ops.take(rows, number, axis=0)
            value, gradients = gradient(
                list(parameters),
                ops.take(stacked_views, ops.take(view_rows, number, axis=0), axis=0),
                ops.take(target, at, axis=0),
                ops.take(relative_weights, at, axis=0),
                mean,
                inverse_deviation,
            )
            kernel, bias, output_weights, output_bias = _clipped(gradients)
            penalised = (
                kernel + decay[None, :, None] * parameters[0],
                bias,
                output_weights + decay[:, None] * parameters[2],
                output_bias,
            )
            rate, correction = ops.take(learning_rates, number), ops.take(bias_corrections, number, axis=0)
            updated = [
                optimizer_step(*item, rate, correction, 1.0)
                for item in zip(parameters, first, second, penalised, strict=True)
            ]
            parameters, first, second = (tuple(part) for part in zip(*updated, strict=True))
            return parameters, first, second, total + value

        carry = (*state, ops.zeros((), "float32"))
        parameters, first, second, total = ops.fori_loop(0, ops.shape(rows)[0], step, carry)
        n_fold_models = ops.cast(ops.shape(mean)[0], "float32")
        share = total / ops.cast(ops.shape(rows)[0], "float32") / n_fold_models
        return (parameters, first, second), share, _held_out_logits(parameters, held_out, mean, inverse_deviation)

    return backend.compiled(epoch)


def _clipped(gradients: Any) -> list[Any]:
    """Clip the norm of each fold model's gradient, over all of its parameters, to `MAX_GRADIENT_NORM`."""
    from keras import ops

    kernel, *rest = gradients
    squares = ops.sum(ops.square(kernel), axis=(0, 2))
    for gradient in rest:
        squares = squares + ops.sum(ops.reshape(ops.square(gradient), (ops.shape(squares)[0], -1)), axis=1)
    factor = ops.minimum(1.0, MAX_GRADIENT_NORM / (ops.sqrt(squares) + EPSILON))
    others = [gradient * (factor[:, None] if len(gradient.shape) == 2 else factor) for gradient in rest]
    return [kernel * factor[None, :, None], *others]


def _forward(parameters: Any, x: Any, mean: Any, inverse_deviation: Any) -> Any:
    """Compute logits from raw features. Shape (batch, n_fold_models)."""
    from keras import ops

    kernel, bias, output_weights, output_bias = parameters
    scaled = kernel * ops.transpose(inverse_deviation)[:, :, None]
    offset = bias - ops.sum(scaled * ops.transpose(mean)[:, :, None], axis=0)
    n_features, n_fold_models, n_hidden = (ops.shape(kernel)[k] for k in range(3))
    hidden = ops.matmul(x, ops.reshape(scaled, (n_features, n_fold_models * n_hidden)))
    hidden = ops.relu(ops.reshape(hidden, (-1, n_fold_models, n_hidden)) + offset)
    return ops.sum(hidden * output_weights, axis=-1) + output_bias


def _held_out_logits(parameters: Any, held_out: Any, mean: Any, inverse_deviation: Any) -> Any:
    """Compute the logits of each fold model for its validation rows. Shape (n_fold_models, n_held_out)."""
    from keras import ops

    kernel, bias, output_weights, output_bias = parameters
    by_fold_model = (held_out - mean[:, None, :]) * inverse_deviation[:, None, :]
    hidden = ops.matmul(by_fold_model, ops.transpose(kernel, (1, 0, 2))) + bias[:, None, :]
    return ops.sum(ops.relu(hidden) * output_weights[:, None, :], axis=-1) + output_bias[:, None]
