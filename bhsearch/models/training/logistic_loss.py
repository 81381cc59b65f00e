"""The weighted logistic loss of several fold models on shared features, with its derivatives."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import qr
from scipy.special import expit, log_expit, logsumexp, softmax

from bhsearch.models.training.blas import Map, in_order

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

_CHUNK_ROWS = 1024  # rows of a product, which are converted to float64 together
_HESSIAN_ROWS = 4096  # minimum number of rows of which a Hessian is computed, if there are as many


class LogisticLoss:
    """The loss of a group of fold models, with its derivatives, as a function of standardised weights.

    Weights and gradients have the shape (n_features + 1, n_fold_models, n_outputs); the last row is the intercept.
    Logits have the shape (n_rows, n_fold_models, n_outputs).

    Args:
        features: Raw features. Shape (n_rows, n_features).
        one_hot: Target of each output. Shape (n_rows, n_outputs).
        weights: Weight of each row, summing to the number of training rows. Shape (n_rows, n_fold_models).
        center: Mean of the features. Shape (n_fold_models, n_features).
        scale: Inverse standard deviation of the features. Shape (n_fold_models, n_features).
        compute: Map over blocks of rows.
    """

    def __init__(
        self,
        features: npt.NDArray[np.floating],
        one_hot: Floats,
        weights: Floats,
        center: Floats,
        scale: Floats,
        compute: Map = in_order,
    ) -> None:
        self._features, self._single, self._compute = features, features.astype(np.float32, copy=False), compute
        self._target, self.weights = one_hot[:, None, :], weights[:, :, None]
        self._center, self._scale = center, scale
        self.n_rows, self.n_features = features.shape
        self.shape = (self.n_features + 1, weights.shape[1], one_hot.shape[1])
        self._binary = one_hot.shape[1] == 1
        # A row with a weight above 0 in any fold model may be used; the sample is the same for all data.
        step = max(1, self.n_rows // max(_HESSIAN_ROWS, 3 * self.n_features))
        self._sampled = slice(None, None, step)

    def logits(self, parameters: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Compute logits, in the precision of the parameters."""
        kind = parameters.dtype
        raw = parameters[:-1] * self._scale.T[:, :, None].astype(kind)
        offset = parameters[-1] - (raw * self._center.T[:, :, None].astype(kind)).sum(axis=0)
        matrix = raw.reshape(self.n_features, -1)
        product: npt.NDArray[np.floating] = np.empty((self.n_rows, matrix.shape[1]), kind)

        def multiply(some: slice) -> None:
            np.matmul(self._rows(some, kind), matrix, out=product[some])

        self._compute(multiply, self._chunks())
        product = product.reshape(self.n_rows, *self.shape[1:])
        product += offset
        return product

    def pull_back(self, slopes: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Compute the gradient with respect to the parameters from that with respect to the logits."""
        kind = slopes.dtype
        matrix = slopes.reshape(self.n_rows, -1)
        product = np.zeros((self.n_features, matrix.shape[1]), kind)
        for part in self._compute(lambda some: self._rows(some, kind).T @ matrix[some], self._chunks()):
            product += part
        total = slopes.sum(axis=0)
        center, scale = (array.T[:, :, None].astype(kind) for array in (self._center, self._scale))
        inner = scale * (product.reshape(-1, *self.shape[1:]) - center * total)
        return np.concatenate([inner, total[None]])

    def _rows(self, some: slice, kind: npt.DTypeLike) -> npt.NDArray[np.floating]:
        """Return the features of some rows in a precision."""
        return self._single[some] if kind == np.float32 else self._features[some].astype(np.float64, copy=False)

    def _chunks(self) -> list[slice]:
        return [slice(first, first + _CHUNK_ROWS) for first in range(0, self.n_rows, _CHUNK_ROWS)]

    def log_odds(self) -> Floats:
        """Return the intercepts that give the weighted frequency of each class. Shape (n_fold_models, n_outputs)."""
        frequency = (self.weights * self._target).sum(axis=0) / self.weights.sum(axis=0)
        frequency = np.clip(frequency, 1e-12, 1 - 1e-12)
        found: Floats = np.log(frequency / (1 - frequency)) if self._binary else np.log(frequency)
        return found

    def raw(self, parameters: Floats) -> tuple[Floats, Floats]:
        """Convert standardised weights to kernel and bias for raw features."""
        kernel = parameters[:-1] * self._scale.T[:, :, None]
        return kernel, parameters[-1] - (kernel * self._center.T[:, :, None]).sum(axis=0)

    def standardised(self, kernel: Floats, bias: Floats) -> Floats:
        """Convert kernel and bias for raw features to standardised weights; the inverse of `raw`."""
        scale = self._scale.T[:, :, None]
        weights = np.divide(kernel, scale, out=np.zeros_like(kernel), where=scale > 0)
        return np.concatenate([weights, (bias + (kernel * self._center.T[:, :, None]).sum(axis=0))[None]])

    def losses(self, logits: Floats) -> Floats:
        """Compute the sum of the weighted losses. Shape (n_fold_models,)."""
        if self._binary:
            each = (-log_expit(-logits) - self._target * logits)[:, :, 0]
        else:
            each = logsumexp(logits, axis=2) - (self._target * logits).sum(axis=2)
        found: Floats = (self.weights[:, :, 0] * each).sum(axis=0)
        return found

    def probabilities(self, logits: Floats) -> Floats:
        """Compute the probability of each output. The shape is that of the logits."""
        found: Floats = expit(logits) if self._binary else softmax(logits, axis=2)
        return found

    def slopes(self, probability: Floats) -> Floats:
        """Compute the gradient of the sum of the losses with respect to the logits."""
        found: Floats = self.weights * (probability - self._target)
        return found

    def hessian_product(
        self,
        probability: npt.NDArray[np.floating],
        weights: npt.NDArray[np.floating],
        direction: npt.NDArray[np.floating],
    ) -> npt.NDArray[np.floating]:
        """Multiply the Hessian of the sum of the losses by a direction, in the precision of the arguments."""
        change = self.logits(direction)
        if self._binary:
            change *= weights * (probability * (1 - probability))
        else:
            change = weights * probability * (change - (probability * change).sum(axis=2, keepdims=True))
        return self.pull_back(change)

    def hessian(self, probability: Floats, fold_model: int, output: int) -> Singles:
        """Compute the Hessian block of one output of a fold model, from a sample of the rows if there are many.

        Shape (n_features + 1, n_features + 1).
        """
        p = probability[:, fold_model, output]
        curvature = self.weights[:, fold_model, 0] * p * (1 - p)
        sampled = curvature[self._sampled]
        root = np.sqrt(sampled * (curvature.sum() / max(sampled.sum(), 1e-300))).astype(np.float32)
        center, scale = (array[fold_model].astype(np.float32) for array in (self._center, self._scale))
        block = np.zeros((self.n_features + 1, self.n_features + 1), np.float32)
        features = self._single[self._sampled]
        for some in self._chunks():
            if some.start >= len(features):
                break
            part = np.empty((len(features[some]), self.n_features + 1), np.float32)
            np.subtract(features[some], center, out=part[:, :-1])
            part[:, :-1] *= scale
            part[:, -1] = 1.0
            part *= root[some, None]
            block += part.T @ part
        return block


class RowSpaceLoss(LogisticLoss):
    """The loss of one fold model with fewer training rows than features, in the space that these rows span.

    Under an L2 penalty, the solution is in this space, so that neither logits nor gradient norms change. There are as
    many features as training rows; `raw` and `standardised` convert from and to the weights of all features.

    Args:
        features: See `LogisticLoss`.
        one_hot: See `LogisticLoss`.
        weights: See `LogisticLoss`, of one fold model.
        center: See `LogisticLoss`, of one fold model.
        scale: See `LogisticLoss`, of one fold model.
        compute: See `LogisticLoss`.
    """

    def __init__(
        self,
        features: npt.NDArray[np.floating],
        one_hot: Floats,
        weights: Floats,
        center: Floats,
        scale: Floats,
        compute: Map = in_order,
    ) -> None:
        rows = np.flatnonzero(weights)
        standardised = ((features[rows] - center) * scale).T
        self._basis, triangle = qr(standardised, mode="economic", overwrite_a=True, check_finite=False)
        self._whole_center, self._whole_scale = center[0], scale[0][:, None]
        zero, one = np.zeros((1, len(triangle))), np.ones((1, len(triangle)))
        super().__init__(np.ascontiguousarray(triangle.T), one_hot[rows], weights[rows], zero, one, compute)

    def raw(self, parameters: Floats) -> tuple[Floats, Floats]:
        """Convert weights in the space of the rows to kernel and bias for raw features."""
        kernel = self._whole_scale * (self._basis @ parameters[:-1, 0])
        return kernel[:, None], (parameters[-1, 0] - self._whole_center @ kernel)[None]

    def standardised(self, kernel: Floats, bias: Floats) -> Floats:
        """Convert kernel and bias for raw features to weights in the space of the rows; the inverse of `raw`."""
        weights = np.divide(
            kernel[:, 0], self._whole_scale, out=np.zeros_like(kernel[:, 0]), where=self._whole_scale > 0
        )
        return np.concatenate([self._basis.T @ weights, (bias[0] + self._whole_center @ kernel[:, 0])[None]])[:, None]
