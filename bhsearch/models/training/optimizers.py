"""AdamW and Nesterov SGD as one update rule.

The choice of the optimizer and all hyperparameters are runtime inputs, so one compiled program can be used for both.

Source:
    AdamW: Loshchilov and Hutter 2019. Nesterov momentum: Sutskever et al. 2013.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array

MOMENTUM, BETA2, EPSILON = 0.9, 0.999, 1e-7


def optimizer_step(
    parameters: Any,
    first_moment: Any,
    second_moment: Any,
    gradient: Any,
    learning_rate: Any,
    bias_correction: Any,
    is_adam: Any,
    weight_decay: Any = None,
) -> tuple[Any, Any, Any]:
    """Update parameters and optimizer slots by one step.

    Args:
        parameters: Array of any shape; both moments and the gradient have the same shape.
        first_moment: Moving average of the gradients for AdamW, or momentum for SGD; zero before the first step.
        second_moment: Moving average of the squared gradients; zero before the first step.
        gradient: Gradient of the loss.
        learning_rate: A scalar, or one rate per parameter.
        bias_correction: Adam's bias corrections of this step, from `bias_corrections`. Shape (2,).
        is_adam: 1.0 for AdamW, 0.0 for SGD.
        weight_decay: Decoupled weight decay, multiplied by the learning rate: a scalar, one value per parameter, or
            None for no decay.

    Returns:
        The updated parameters, first moment and second moment.
    """
    from keras import ops

    first_moment = MOMENTUM * first_moment + (1.0 - is_adam * MOMENTUM) * gradient
    second_moment = BETA2 * second_moment + (1.0 - BETA2) * ops.square(gradient)
    adam_step = (first_moment / bias_correction[0]) / (ops.sqrt(second_moment / bias_correction[1]) + EPSILON)
    step = is_adam * adam_step + (1.0 - is_adam) * (gradient + MOMENTUM * first_moment)
    if weight_decay is not None:
        step = step + weight_decay * parameters
    return parameters - learning_rate * step, first_moment, second_moment


def bias_corrections(step_number: npt.NDArray[np.int64]) -> Float32Array:
    """Compute Adam's bias corrections, 1 - beta ** step.

    Args:
        step_number: Step numbers, counted from 0. Shape (n_steps,).

    Returns:
        Divisors of the first and of the second moment. Shape (n_steps, 2).
    """
    corrections = [1 - MOMENTUM ** (step_number + 1), 1 - BETA2 ** (step_number + 1)]
    return np.stack(corrections, axis=1).astype(np.float32)


def learning_rates(peak: float, schedule: str, n_steps: int, warmup: float = 0.0) -> Float32Array:
    """Compute the learning rate of every step.

    Args:
        peak: Highest learning rate.
        schedule: `cosine` (decay to zero) or `constant`.
        n_steps: Total number of steps.
        warmup: Share of the steps during which the learning rate rises linearly to its peak, 0 to below 1.

    Returns:
        Learning rates. Shape (n_steps,).
    """
    step_number = np.arange(n_steps)
    n_warmup = round(warmup * n_steps)
    warmup_factor = np.minimum(1.0, (step_number + 1) / (n_warmup + 1))
    progress = np.clip((step_number - n_warmup) / max(n_steps - n_warmup, 1), 0.0, 1.0)
    decay_factor = 0.5 * (1 + np.cos(np.pi * progress)) if schedule == "cosine" else np.ones(n_steps)
    return (peak * warmup_factor * decay_factor).astype(np.float32)
