"""Trained heads on frozen features, and the moments of features for their standardisation.

There is one fold model (a head) per fold and repeat. Each fold model standardises features by the mean and standard
deviation of its own training rows. Kernels are applied to raw features: the standard deviation is included in the
kernel and the mean in the bias, so that one matrix product computes all fold models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array

_MOMENT_ROWS = 8192  # rows that are converted to float64 together
_HELD_OUT_CELLS = 1 << 25  # maximum number of features that are copied at once


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
    def of_linear(cls, kernel: npt.NDArray[np.floating], bias: npt.NDArray[np.floating]) -> Heads:
        """Create linear heads.

        Args:
            kernel: Weights for raw features. Shape (n_features, n_fold_models).
            bias: Shape (n_fold_models,).
        """
        one, zero = np.ones((len(bias), 1), np.float32), np.zeros(len(bias), np.float32)
        return cls(kernel[:, :, None].astype(np.float32), bias[:, None].astype(np.float32), one, zero, True)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], linear: bool) -> Heads:
        """Restore heads from the arrays of `to_arrays`."""
        return cls(arrays["kernel"], arrays["bias"], arrays["top"], arrays["top_bias"], linear)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the weights by name, for the stored arrays of a trial."""
        # The names must not change, since stored files contain them.
        return {"kernel": self.kernel, "bias": self.bias, "top": self.output_weights, "top_bias": self.output_bias}

    def hidden(self, features: Float32Array) -> Float32Array:
        """Compute the hidden units of all images for all fold models. Shape (n_images, n_fold_models, n_hidden)."""
        hidden: Float32Array = np.einsum("nd,dfh->nfh", features, self.kernel, optimize=True) + self.bias
        return hidden if self.linear else np.maximum(hidden, 0.0)

    def logits(self, features: Float32Array) -> Float32Array:
        """Compute the logits of all images for all fold models. Shape (n_images, n_fold_models)."""
        logits: Float32Array = (self.hidden(features) * self.output_weights).sum(axis=-1) + self.output_bias
        return logits

    def held_out_logits(self, features: Float32Array, held_out: npt.NDArray[np.int64]) -> Float32Array:
        """Compute the logits of each fold model for its validation rows.

        Args:
            features: Raw features. Shape (n_images, n_features).
            held_out: Validation rows of each fold model. Shape (n_fold_models, n_held_out).

        Returns:
            Logits. Shape (n_fold_models, n_held_out).
        """
        kernel = self.kernel.transpose(1, 0, 2)
        n_held_out = held_out.shape[1]
        step = max(1, _HELD_OUT_CELLS // (len(held_out) * features.shape[1]))
        logits = np.empty(held_out.shape, np.float32)
        for first in range(0, n_held_out, step):
            some = slice(first, first + step)
            hidden = np.matmul(features[held_out[:, some]], kernel) + self.bias[:, None, :]
            if not self.linear:
                hidden = np.maximum(hidden, 0.0)
            logits[:, some] = (hidden * self.output_weights[:, None, :]).sum(axis=-1) + self.output_bias[:, None]
        return logits


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted sums of one view's features over the training rows of each fold model, in float64.

    Attributes:
        total: Sum of the weights. Shape (n_fold_models, 1).
        first: Weighted sum of the features. Shape (n_fold_models, n_features).
        second: Weighted sum of the squared features. Shape (n_fold_models, n_features).
        widths: Number of features of each encoder, if several are joined; empty for one encoder.
    """

    total: npt.NDArray[np.float64]
    first: npt.NDArray[np.float64]
    second: npt.NDArray[np.float64]
    widths: tuple[int, ...] = ()

    @classmethod
    def of(cls, features: Float32Array, weights: npt.NDArray[np.float64], widths: tuple[int, ...] = ()) -> Moments:
        """Compute the weighted sums of one view.

        Args:
            features: Features of the view. Shape (n_images, n_features).
            weights: Weight of each row in each fold model. Shape (n_images, n_fold_models).
            widths: Number of features of each encoder, if several are joined.
        """
        first, second = np.zeros((2, weights.shape[1], features.shape[1]))
        for start in range(0, len(features), _MOMENT_ROWS):
            some = slice(start, start + _MOMENT_ROWS)
            exact, weight = features[some].astype(np.float64), weights[some].T
            first += weight @ exact
            second += weight @ np.square(exact, out=exact)
        return cls(weights.sum(axis=0)[:, None], first, second, widths)


def standardisation(moments: list[Moments]) -> tuple[Float32Array, Float32Array]:
    """Compute mean and inverse standard deviation over several views. Shape (n_fold_models, n_features) each.

    The inverse standard deviation of a constant feature is 0. If several encoders are joined, their features are
    rescaled: the total variance of each encoder is the same, and the mean variance over all features is 1. A penalty
    then has the meaning that it has for one encoder, and an encoder with many features does not outweigh one with few.
    """
    total = np.sum([m.total for m in moments], axis=0)
    mean = np.sum([m.first for m in moments], axis=0) / total
    variance = np.maximum(np.sum([m.second for m in moments], axis=0) / total - mean**2, 0.0)
    # The computed variance of a constant feature is a rounding error, which increases with the mean.
    inverse_deviation = np.where(variance > 1e-12 + 1e-10 * mean**2, 1.0 / np.sqrt(variance + 1e-12), 0.0)
    widths = moments[0].widths
    if widths:
        inverse_deviation = inverse_deviation * _block_scales(inverse_deviation > 0, widths)
    return mean.astype(np.float32), inverse_deviation.astype(np.float32)


def _block_scales(varies: npt.NDArray[np.bool_], widths: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return the factor on each standardised feature that gives all blocks of features the same variance in sum.

    Args:
        varies: Whether a feature varies, in each fold model. Shape (n_fold_models, n_features).
        widths: Number of features of each block.
    """
    blocks = np.split(varies, np.cumsum(widths)[:-1], axis=1)
    counts = np.stack([block.sum(axis=1) for block in blocks], axis=1)  # (n_fold_models, n_blocks)
    mean = counts.sum(axis=1, keepdims=True) / np.maximum((counts > 0).sum(axis=1, keepdims=True), 1)
    return np.repeat(np.sqrt(mean / np.maximum(counts, 1)), widths, axis=1)
