"""Stacking: a logistic regression of the label on the logits of the members, with weights of 0 or more."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from bhsearch.errors import RunError
from bhsearch.evaluation.predictions import FloatArray, LabelArray

COST = 0.01
_TOLERANCE = 1e-8  # of the projected gradient, relative to the number of images
_MAX_ITERATIONS = 5000


def stack_weights(
    logits: FloatArray, label: LabelArray, weight: FloatArray, cost: float = COST
) -> tuple[FloatArray, float]:
    """Fit the weights of a stack.

    The objective is `cost * sum(weight * loss) + |w|^2 / 2`, that of scikit-learn's `LogisticRegression`, under the
    constraint `w >= 0`. The weights of the images are scaled to a mean of 1. The intercept is neither penalised nor
    constrained.

    Args:
        logits: Logits of each member. Shape (n_members, n_images).
        label: 0 or 1. Shape (n_images,).
        weight: Weight of each image, on any scale. Shape (n_images,).
        cost: Weight of the loss relative to the penalty, above 0.

    Returns:
        Weight of each member, shape (n_members,), and intercept.

    Raises:
        RunError: If a logit is not finite.

    Source:
        Stacking with non-negative weights: Breiman, "Stacked regressions", Machine Learning 24, 1996.
    """
    if not np.isfinite(logits).all():
        raise RunError(
            f"The logits of all members of an ensemble must be finite, but got {logits[~np.isfinite(logits)][0]}."
        )
    n_members, n_images = logits.shape
    scaled = weight * (n_images / weight.sum())

    def value_and_gradient(parameters: FloatArray) -> tuple[float, FloatArray]:
        w = parameters[:-1]
        combined = w @ logits + parameters[-1]
        losses = np.logaddexp(0.0, combined) - label * combined
        residual = scaled * (expit(combined) - label)
        gradient = np.append(cost * (logits @ residual) + w, cost * residual.sum())
        return cost * float(scaled @ losses) + float(w @ w) / 2, gradient

    found = minimize(
        value_and_gradient,
        np.append(np.full(n_members, 1.0 / n_members), 0.0),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * n_members + [(None, None)],
        options={
            "maxiter": _MAX_ITERATIONS,
            "maxfun": 2 * _MAX_ITERATIONS,
            "ftol": 1e-14,
            "gtol": _TOLERANCE * n_images,
        },
    )
    return np.asarray(found.x[:-1]), float(found.x[-1])
