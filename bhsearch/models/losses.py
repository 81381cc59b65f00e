"""Loss functions and inverse link functions of tasks by name, in Keras operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Loss = Callable[[Any, Any], Any]
Link = Callable[[Any], Any]


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


# Keys are the values of `Task.loss` and `Task.link`.
LOSSES: dict[str, Loss] = {"binary_cross_entropy": binary_cross_entropy}
LINKS: dict[str, Link] = {"sigmoid": sigmoid}
