"""AdamW and Nesterov SGD as one rule whose every number is known at run time only, so that one program serves both.

Source:
    AdamW: Loshchilov and Hutter 2019. Nesterov momentum: Sutskever et al. 2013.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
MOMENTUM, BETA2, EPSILON = 0.9, 0.999, 1e-7


def optimizer_step(p: Any, m: Any, v: Any, g: Any, rate: Any, correction: Any, adam: Any, decay: Any = None) -> Any:
    """One step.

    Args:
        p: Parameters, of any shape; `m` and `v` (both zero at first) and the gradient `g` have the same.
        m: First slot.
        v: Second slot.
        g: Gradient.
        rate: Learning rate, a scalar or one per parameter.
        correction: Adam's corrections of this step, from `bias_corrections`. Shape (2,).
        adam: 1.0 for AdamW, 0.0 for SGD.
        decay: Weight decay, times the learning rate; None for none. A scalar or one per parameter.

    Returns:
        The new `p`, `m` and `v`.
    """
    from keras import ops

    m = MOMENTUM * m + (1.0 - adam * MOMENTUM) * g  # Adam keeps a mean, SGD a sum
    v = BETA2 * v + (1.0 - BETA2) * ops.square(g)
    by_adam = (m / correction[0]) / (ops.sqrt(v / correction[1]) + EPSILON)
    step = adam * by_adam + (1.0 - adam) * (g + MOMENTUM * m)
    if decay is not None:
        step = step + decay * p
    return p - rate * step, m, v


def bias_corrections(number: npt.NDArray[np.int64]) -> Array:
    """Adam's corrections for steps counted from 0. `number`: (n_steps,); the result: (n_steps, 2)."""
    return np.stack([1 - MOMENTUM ** (number + 1), 1 - BETA2 ** (number + 1)], axis=1).astype(np.float32)


def learning_rates(peak: float, schedule: str, n_steps: int, warmup: float = 0.0) -> Array:
    """Learning rate of every step.

    Args:
        peak: Highest rate.
        schedule: `cosine` down to zero, or `constant`.
        n_steps: Steps in all.
        warmup: Share of the steps in which the rate rises to its peak, 0 to below 1.

    Returns:
        Shape (n_steps,).
    """
    number = np.arange(n_steps)
    first = round(warmup * n_steps)
    rise = np.minimum(1.0, (number + 1) / (first + 1))
    place = np.clip((number - first) / max(n_steps - first, 1), 0.0, 1.0)
    fade = 0.5 * (1 + np.cos(np.pi * place)) if schedule == "cosine" else np.ones(n_steps)
    return (peak * rise * fade).astype(np.float32)
