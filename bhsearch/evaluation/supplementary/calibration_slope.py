"""Calibration slope and calibration-in-the-large: agreement of predicted probabilities with observed labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.calibration import logit

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import FloatArray, LabelArray

_MOST_STEPS = 60
_GRADIENT = 1e-9  # largest component of the gradient of the mean loss at convergence


def weighted_calibration_slope(label: LabelArray, probability: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Compute the slope of a weighted logistic regression of the label on the logit of the predicted probability.

    The slope is 1 for a calibrated model. A slope below 1 means that the probabilities are too extreme, a slope above 1
    that they are not extreme enough.

    Args:
        label: 0 or 1. Shape (n_images,).
        probability: P(malignant). Shape (n_images,).
        weight: Weight per image, 0 or more. Shape (..., n_images).

    Returns:
        One slope per leading index; nan if a class has zero weight or a threshold separates the classes, since the
        maximum of the likelihood is then not finite. Shape (...).

    Source:
        Cox, "Two further applications of a model for binary regression", Biometrika 45, 1958.
    """
    x = logit(probability)
    spread = float(x.std()) or 1.0
    standardised = (x - x.mean()) / spread
    rows = np.atleast_2d(weight)
    slope = np.full(len(rows), np.nan)
    overlap = _overlap(label, x, rows)
    if overlap.any():
        columns = np.column_stack([np.ones_like(x), standardised])
        slope[overlap] = _logistic(columns, np.zeros_like(x), label, rows[overlap])[:, 1] / spread
    return slope.reshape(np.shape(weight)[:-1])


def weighted_calibration_intercept(label: LabelArray, probability: npt.NDArray[Any], weight: FloatArray) -> FloatArray:
    """Compute calibration-in-the-large: the intercept of a weighted logistic regression with the logit as offset.

    The intercept is 0 for a model whose mean probability equals the share of malignant images. It is above 0 if the
    probabilities are too low on average, and below 0 if they are too high.

    Args:
        label: 0 or 1. Shape (n_images,).
        probability: P(malignant). Shape (n_images,).
        weight: Weight per image, 0 or more. Shape (..., n_images).

    Returns:
        One intercept per leading index, in logits; nan if a class has zero weight. Shape (...).

    Source:
        Van Calster et al., "Calibration: the Achilles heel of predictive analytics", BMC Medicine 17:230, 2019.
    """
    x = logit(probability)
    rows = np.atleast_2d(weight)
    intercept = np.full(len(rows), np.nan)
    both = (rows @ label > 0) & (rows @ (1 - label) > 0)
    if both.any():
        intercept[both] = _logistic(np.ones((len(x), 1)), x, label, rows[both])[:, 0]
    return intercept.reshape(np.shape(weight)[:-1])


def _overlap(label: LabelArray, x: FloatArray, weight: FloatArray) -> npt.NDArray[np.bool_]:
    """Return whether the logits of the two classes overlap among the images with a weight. Shape (n_weights,)."""
    order = np.argsort(x)
    ranked, present = x[order], weight[:, order] > 0
    positive, negative = (present & (label[order] == value) for value in (1, 0))

    def ends(mask: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
        return ranked[mask.argmax(axis=1)], ranked[mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)]

    (low_positive, high_positive), (low_negative, high_negative) = ends(positive), ends(negative)
    both = positive.any(axis=1) & negative.any(axis=1)
    return np.asarray(both & (high_negative > low_positive) & (high_positive > low_negative))


def _logistic(columns: FloatArray, offset: FloatArray, label: LabelArray, weight: FloatArray) -> FloatArray:
    """Fit one weighted logistic regression per row of weights by Newton's method, without a penalty.

    All rows start from the fit to their mean weights. A step that raises the loss is halved.

    Args:
        columns: Design matrix. Shape (n_images, n_columns).
        offset: Term of the linear predictor without a coefficient. Shape (n_images,).
        label: 0 or 1. Shape (n_images,).
        weight: Weights. Shape (n_weights, n_images).

    Returns:
        Coefficients. Shape (n_weights, n_columns).
    """
    share = weight / weight.sum(axis=1, keepdims=True)
    start = np.zeros((1, columns.shape[1]))
    if len(share) > 1:
        start = _logistic(columns, offset, label, share.mean(axis=0, keepdims=True))
    found = np.repeat(start, len(share), axis=0)
    loss, gradient, curvature = _loss(found, columns, offset, label, share)
    step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
    for _ in range(_MOST_STEPS):
        active = np.flatnonzero(np.abs(gradient).max(axis=1) > _GRADIENT)
        if not len(active):
            break
        tried = found[active] - step[active]
        values = _loss(tried, columns, offset, label, share[active])
        better = values[0] <= loss[active] + 1e-14
        moved = active[better]
        found[moved] = tried[better]
        loss[moved], gradient[moved], curvature[moved] = (value[better] for value in values)
        if len(moved):
            step[moved] = np.linalg.solve(curvature[moved], gradient[moved][..., None])[..., 0]
        step[active[~better]] /= 2
    return found


def _loss(
    coefficients: FloatArray, columns: FloatArray, offset: FloatArray, label: LabelArray, share: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the log loss, its gradient and its Hessian for every row of coefficients."""
    z = coefficients @ columns.T + offset
    small = np.exp(-np.abs(z))
    p = np.where(z >= 0, 1.0, small) / (1 + small)
    loss = (share * (np.maximum(z, 0) - label * z + np.log1p(small))).sum(axis=1)
    gradient = (share * (p - label)) @ columns
    curvature = np.einsum("dn,nj,nk->djk", share * p * (1 - p), columns, columns, optimize=True)
    return loss, gradient, curvature
