"""Losses and links of tasks by name, in Keras operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Loss = Callable[[Any, Any], Any]
Link = Callable[[Any], Any]


def binary_cross_entropy(logits: Any, target: Any) -> Any:
    """Return the binary cross-entropy of logits, element by element.

    Softplus has a derivative at 0, where a linear head starts; the form with a maximum and an absolute value has none
    there, and the backends return a value that is wrong by a half.

    Args:
        logits: Any shape.
        target: Probability of the positive class, 0 to 1. Broadcast against `logits`.
    """
    from keras import ops

    return ops.softplus(logits) - logits * target


def sigmoid(logits: Any) -> Any:
    """Return the probability of the positive class of each logit. Any shape."""
    from keras import ops

    return ops.sigmoid(logits)


# By the names that a task has for its loss and link.
LOSSES: dict[str, Loss] = {"binary_cross_entropy": binary_cross_entropy}
LINKS: dict[str, Link] = {"sigmoid": sigmoid}
