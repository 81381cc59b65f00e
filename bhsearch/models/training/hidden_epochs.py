"""Epochs of the training of heads with one hidden layer, computed with NumPy.

On a CPU, the batches of frozen features are so small that NumPy is as fast as a framework, which would first have to be
imported. `hidden_epochs_device` computes the same epochs with Keras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array
from bhsearch.models.losses import HOST_LOSSES
from bhsearch.models.training.optimizers import BETA2, EPSILON, MOMENTUM

MAX_GRADIENT_NORM = 5.0  # maximum norm of the gradient of a fold model


@dataclass(frozen=True, eq=False)
class Problem:
    """What all epochs of the training of some fold models have in common.

    Attributes:
        features: Raw features of all views, one view after another. Shape (n_views * n_images, n_features).
        target: Label of each image. Shape (n_images,).
        weights: Training weight of each image in each fold model, with a mean of 1. Shape (n_images, n_fold_models).
        mean: Mean of the features of each fold model. Shape (n_fold_models, n_features).
        inverse_deviation: Inverse standard deviation of the features. Shape (n_fold_models, n_features).
        decay: Penalty divided by the number of training images. Shape (n_fold_models,).
        held_out: Raw features of the validation images. Shape (n_fold_models, n_held_out, n_features).
    """

    features: Float32Array
    target: Float32Array
    weights: Float32Array
    mean: Float32Array
    inverse_deviation: Float32Array
    decay: Float32Array
    held_out: Float32Array


@dataclass(frozen=True, eq=False)
class EpochInputs:
    """Inputs of the steps of an epoch.

    Attributes:
        rows: Images of each step. Shape (n_steps, batch).
        view_rows: Rows of the stacked views of these images. Shape (n_steps, batch).
        learning_rates: Shape (n_steps,).
        bias_corrections: Adam's bias corrections, from `optimizers.bias_corrections`. Shape (n_steps, 2).
    """

    rows: npt.NDArray[np.int32]
    view_rows: npt.NDArray[np.int32]
    learning_rates: Float32Array
    bias_corrections: Float32Array


class HostTraining:
    """Training of the heads of all fold models with NumPy.

    Args:
        problem: What all epochs have in common.
        start: Initial kernel, bias, output weights and output bias for standardised features, in the shapes of `Heads`.
        loss: Name of the loss, a key of `models.losses.HOST_LOSSES`.
    """

    def __init__(self, problem: Problem, start: Sequence[Float32Array], loss: str) -> None:
        self._problem, self._loss = problem, HOST_LOSSES[loss]
        self._parameters = [part.copy() for part in start]
        self._first, self._second = ([np.zeros_like(part) for part in start] for _ in range(2))
        self._spare = [np.empty_like(part) for part in start]
        # Factors of the kernel's rows, shape (n_features, n_fold_models, 1).
        self._scale, self._center = (
            np.ascontiguousarray(part.T)[:, :, None] for part in (problem.inverse_deviation, problem.mean)
        )
        self._held_out = (problem.held_out - problem.mean[:, None, :]) * problem.inverse_deviation[:, None, :]

    def parameters(self) -> list[Float32Array]:
        """Return kernel, bias, output weights and output bias for standardised features."""
        return self._parameters

    def epoch(self, inputs: EpochInputs) -> tuple[float, Float32Array]:
        """Train one epoch.

        Returns:
            Training loss without the penalty, averaged over steps and fold models, and the validation logits after the
            epoch, of shape (n_fold_models, n_held_out).
        """
        problem, total = self._problem, 0.0
        for rows, view_rows, rate, correction in zip(
            inputs.rows, inputs.view_rows, inputs.learning_rates, inputs.bias_corrections, strict=True
        ):
            value, gradients = self._gradients(
                problem.features[view_rows], problem.target[rows, None], problem.weights[rows]
            )
            total += value
            self._update(gradients, rate, correction)
        return total / (len(inputs.rows) * len(problem.mean)), self._held_out_logits()

    def _gradients(
        self, features: Float32Array, target: Float32Array, weights: Float32Array
    ) -> tuple[float, list[Float32Array]]:
        """Compute the sum of the losses of all fold models, and its gradient with respect to the parameters."""
        kernel, bias, output_weights, output_bias = self._parameters
        n_features, n_fold_models, n_hidden = kernel.shape
        scaled = np.multiply(kernel, self._scale, out=self._spare[0])
        offset = bias - np.einsum("dfh,fd->fh", scaled, self._problem.mean)
        hidden = (features @ scaled.reshape(n_features, -1)).reshape(-1, n_fold_models, n_hidden)
        hidden += offset
        np.maximum(hidden, 0.0, out=hidden)
        logits = np.einsum("bfh,fh->bf", hidden, output_weights) + output_bias
        losses, slopes = self._loss(logits, target)
        value = float((losses * weights).sum(dtype=np.float64)) / len(features)
        slopes *= weights / np.float32(len(features))
        of_output_weights = np.einsum("bfh,bf->fh", hidden, slopes)
        of_hidden = slopes[:, :, None] * output_weights
        of_hidden *= hidden > 0
        of_bias = of_hidden.sum(axis=0)
        of_kernel = (features.T @ of_hidden.reshape(len(features), -1)).reshape(kernel.shape)
        of_kernel -= np.multiply(self._center, of_bias, out=self._spare[0])
        of_kernel *= self._scale
        return value, [of_kernel, of_bias, of_output_weights, slopes.sum(axis=0)]

    def _update(self, gradients: list[Float32Array], rate: np.float32, correction: Float32Array) -> None:
        """Clip the gradient of each fold model, add that of the penalty, and make a step of Adam, all in place."""
        kernel, bias, output_weights, output_bias = gradients
        squares = np.einsum("dfh,dfh->f", kernel, kernel) + (bias**2 + output_weights**2).sum(axis=1) + output_bias**2
        factor = np.minimum(np.float32(1.0), np.float32(MAX_GRADIENT_NORM) / (np.sqrt(squares) + np.float32(EPSILON)))
        decay = self._problem.decay[:, None]
        for number, gradient in enumerate(gradients):
            parameter, first, second, spare = (
                group[number] for group in (self._parameters, self._first, self._second, self._spare)
            )
            gradient *= factor if gradient.ndim == 1 else factor[:, None]
            if number in (0, 2):  # the weights, not the biases
                gradient += np.multiply(parameter, decay, out=spare)
            first *= np.float32(MOMENTUM)
            first += np.multiply(gradient, np.float32(1.0 - MOMENTUM), out=spare)
            second *= np.float32(BETA2)
            np.multiply(gradient, gradient, out=spare)
            spare *= np.float32(1.0 - BETA2)
            second += spare
            np.sqrt(np.divide(second, correction[1], out=spare), out=spare)
            spare += np.float32(EPSILON)
            np.divide(first, spare, out=spare)
            spare *= rate / correction[0]
            parameter -= spare

    def _held_out_logits(self) -> Float32Array:
        kernel, bias, output_weights, output_bias = self._parameters
        hidden = np.matmul(self._held_out, np.ascontiguousarray(kernel.transpose(1, 0, 2)))
        hidden += bias[:, None, :]
        np.maximum(hidden, 0.0, out=hidden)
        logits: Float32Array = np.einsum("fnh,fh->fn", hidden, output_weights) + output_bias[:, None]
        return logits
