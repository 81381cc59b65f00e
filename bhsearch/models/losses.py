"""Loss functions and inverse link functions of tasks by name, in Keras operations, and losses in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit

from bhsearch.data.arrays import Float32Array

Loss = Callable[[Any, Any], Any]
Link = Callable[[Any], Any]
HostLoss = Callable[[Float32Array, Float32Array], tuple[Float32Array, Float32Array]]


def binary_cross_entropy(logits: Any, target: Any) -> Any:
    """Compute the binary cross-entropy of logits, element by element.

    The usual form with a maximum and an absolute value is not used: it has no derivative at 0, where linear heads
    start, and backends return a gradient that is wrong by one half. Softplus is differentiable at 0.

    Args:
        logits: Any shape.
        target: Probability of the positive class, 0 to 1. Broadcast against `logits`.
    """
    from keras import ops

    return ops.softplus(logits) - logits * target


def sigmoid(logits: Any) -> Any:
    """Convert logits to probabilities of the positive class. Any shape."""
    from keras import ops

    return ops.sigmoid(logits)


def _host_binary_cross_entropy(logits: Float32Array, target: Float32Array) -> tuple[Float32Array, Float32Array]:
    return np.logaddexp(np.float32(0), logits) - logits * target, expit(logits) - target


# Keys are the values of `Task.loss` and `Task.link`.
LOSSES: dict[str, Loss] = {"binary_cross_entropy": binary_cross_entropy}
# The same losses in NumPy, with their derivatives with respect to the logits.
HOST_LOSSES: dict[str, HostLoss] = {"binary_cross_entropy": _host_binary_cross_entropy}
LINKS: dict[str, Link] = {"sigmoid": sigmoid}
