"""L2-penalised logistic regression for all fold models and a path of penalties, solved to convergence.

The objective of a fold model is that of scikit-learn's `LogisticRegression`, `C * sum(weight * loss) + |w|^2 / 2`, on
features that are standardised by the fold model's training rows. The intercept is not penalised. The weights of a fold
model are scaled to sum to its number of training rows, so that C has the meaning that it has in scikit-learn without
sample weights, whatever the scale of the weights.

The solver is a Newton method whose linear systems are solved by conjugate gradients:

- All fold models share each pass over the features. The standardisation is part of the products, and rows that a fold
  model must not see have a weight of zero, so the features are never copied.
- The penalties are solved from the strongest to the weakest, and each solution is the start of the next one. A path can
  be continued later with weaker penalties, and gives the same solutions as one that was solved in one go.
- The preconditioner of a fold model is the Cholesky factor of its Hessian at an earlier iterate, which is recomputed
  when the conjugate gradients become slow, and in each step for at most 256 features (a full Newton step).
- Hessian products and preconditioners use float32, whose errors are corrected by the next step; gradients, losses and
  solutions use float64.
- With fewer training rows than features, a QR decomposition first reduces the features of each fold model to as many
  as it has rows. Under an L2 penalty this changes neither logits nor gradient norms.

The result for a fold model does not depend on any row of weight zero, not even in its last bit: products have the same
shape for all data, and converged fold models are not updated.

Source:
    The joint solution of all folds and the shared preconditioner along the path are ours. Newton-CG with an inexact
    linear solver: Nocedal and Wright, "Numerical Optimization", 2006, chapter 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from bhsearch.errors import RunError
from bhsearch.models.training.blas import Map, parallel
from bhsearch.models.training.logistic_loss import Floats, LogisticLoss, RowSpaceLoss, Singles

TOLERANCE = 1e-9
_FULL_NEWTON_FEATURES = 256
_SLOW_CG = 10  # number of CG iterations after which a preconditioner is recomputed
_MAX_CG = 200
_MAX_NEWTON = 60
_PRECONDITIONER_BYTES = 1 << 28  # of the factors and Hessians of the fold models that are solved together
_LEAST_DECREASE, _ROUNDING = 1e-4, 1e-13  # sufficient decrease of the line search; rounding error of the objective


_Point = tuple[Floats, Floats]  # kernel and bias for raw features, of one penalty


@dataclass(frozen=True, eq=False)
class HeadPath:
    """Solutions of all fold models for each penalty, for raw features.

    Attributes:
        kernel: Weights. Shape (n_penalties, n_features, n_fold_models, n_outputs), with one output for two classes and
            otherwise one output per class.
        bias: Shape (n_penalties, n_fold_models, n_outputs).
        losses: Weighted mean of the training loss, without penalty. Shape (n_penalties, n_fold_models).
        gradient_norms: Norm of the gradient at the solution divided by its norm at weights of zero: the certificate
            of convergence. Shape (n_penalties, n_fold_models).
    """

    kernel: Floats
    bias: Floats
    losses: Floats
    gradient_norms: Floats


def fit_path(
    features: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    weights: Floats,
    mean: npt.NDArray[np.floating],
    inverse_deviation: npt.NDArray[np.floating],
    costs: Sequence[float],
    n_classes: int = 2,
    tolerance: float = TOLERANCE,
    start: HeadPath | None = None,
) -> HeadPath:
    """Solve the logistic regressions of all fold models for every value of C.

    Args:
        features: Raw features. Shape (n_rows, n_features).
        labels: Class of each row, 0 to `n_classes` - 1. Shape (n_rows,).
        weights: Training weight of each row in each fold model, on any scale; zero for rows that a fold model must not
            be trained on. Shape (n_rows, n_fold_models).
        mean: Mean of the features for the standardisation. Shape (n_fold_models, n_features).
        inverse_deviation: Inverse standard deviation; 0 for constant features. Shape (n_fold_models, n_features).
        costs: Values of C, above 0: the weight of the loss relative to the penalty.
        n_classes: Number of classes.
        tolerance: Largest norm of the gradient at a solution, relative to its norm at weights of zero.
        start: Solutions for smaller values of C, the last of which is where the path begins; None to begin with weights
            of zero.

    Raises:
        RunError: If a fold model does not converge to `tolerance`, for example because features are not finite.
    """
    n_training = (weights > 0).sum(axis=0)
    scaled = weights * (n_training / weights.sum(axis=0))
    one_hot = np.eye(n_classes)[labels][:, 1:] if n_classes == 2 else np.eye(n_classes)[labels]
    center, scale = mean.astype(np.float64), inverse_deviation.astype(np.float64)
    in_row_space = n_training.max() < features.shape[1]
    bytes_per_fold = 8 * one_hot.shape[1] * (features.shape[1] + 1) ** 2
    size = 1 if in_row_space else max(1, _PRECONDITIONER_BYTES // bytes_per_fold)
    paths = []
    with parallel(features.size) as compute:
        for first in range(0, weights.shape[1], size):
            some = slice(first, first + size)
            kind = RowSpaceLoss if in_row_space else LogisticLoss
            problem = kind(features, one_hot, scaled[:, some], center[some], scale[some], compute)
            # A product of an array with another memory order may differ in the last bit.
            point = None
            if start is not None:
                point = np.ascontiguousarray(start.kernel[-1][:, some]), np.ascontiguousarray(start.bias[-1][some])
            paths.append(_solve_path(problem, costs, tolerance, first, point, compute))
    return _joined(paths)


def _joined(paths: Sequence[HeadPath]) -> HeadPath:
    return HeadPath(
        np.concatenate([path.kernel for path in paths], axis=2),
        np.concatenate([path.bias for path in paths], axis=1),
        np.concatenate([path.losses for path in paths], axis=1),
        np.concatenate([path.gradient_norms for path in paths], axis=1),
    )


class _Preconditioner:
    """Cholesky factors of the penalised Hessians of a group of fold models, one per fold model and output.

    Args:
        problem: Losses of the fold models.
        compute: Map over fold models.
    """

    def __init__(self, problem: LogisticLoss, compute: Map) -> None:
        self._problem, self._compute = problem, compute
        _, n_fold_models, n_outputs = problem.shape
        self._factors = [[np.zeros((0, 0), np.float32)] * n_outputs for _ in range(n_fold_models)]

    def update(self, probability: Floats, penalty: float, fold_models: npt.NDArray[np.bool_]) -> None:
        """Recompute and factorise the Hessians of some fold models."""

        def factors(k: int) -> list[Singles]:
            outputs = range(self._problem.shape[2])
            return [_factor(self._problem.hessian(probability, k, output), penalty) for output in outputs]

        found = np.flatnonzero(fold_models).tolist()
        for k, blocks in zip(found, self._compute(factors, found), strict=True):
            self._factors[k] = blocks

    def solve(self, residual: npt.NDArray[np.floating], fold_models: npt.NDArray[np.bool_]) -> npt.NDArray[np.floating]:
        """Apply the inverse of the preconditioner to some fold models; the others are 0. The shape is kept."""
        solved = np.zeros_like(residual)

        def solve_one(k: int) -> None:
            for output, factor in enumerate(self._factors[k]):
                right = residual[:, k, output].astype(np.float32)
                solved[:, k, output] = cho_solve((factor, True), right, overwrite_b=True, check_finite=False)

        self._compute(solve_one, np.flatnonzero(fold_models).tolist())
        return solved


def _factor(hessian: Singles, penalty: float) -> Singles:
    """Return the Cholesky factor of a Hessian with a penalty, with a larger diagonal if it is not positive."""
    jitter = 0.0
    while True:
        matrix = hessian.copy()
        diagonal = np.einsum("dd->d", matrix)
        diagonal[:-1] += np.float32(penalty)
        diagonal += np.float32(jitter) * diagonal.max()
        try:
            # The transpose has the memory order of LAPACK, so that nothing is copied.
            found: Singles = cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)[0]
        except LinAlgError:
            if jitter > 1.0:
                raise
            jitter = max(10 * jitter, 1e-7)
        else:
            return found


def _solve_path(
    problem: LogisticLoss,
    costs: Sequence[float],
    tolerance: float,
    first_fold_model: int,
    start: _Point | None,
    compute: Map,
) -> HeadPath:
    """Solve a group of fold models for every value of C.

    Args:
        problem: Losses of the fold models.
        costs: Values of C.
        tolerance: See `fit_path`.
        first_fold_model: Number of the first fold model of the group, for messages.
        start: Kernel and bias at which to begin; None to begin with weights of zero.
        compute: Map over fold models.
    """
    losses, norms = np.empty((2, len(costs), problem.shape[1]))
    points: list[_Point] = [(np.empty(0), np.empty(0))] * len(costs)
    solver = _Newton(problem, tolerance, compute)
    for place in np.argsort(costs):
        # A solution depends on the one before, but on nothing else of its computation, so that paths can be continued.
        norms[place] = solver.minimise(1.0 / costs[place], start)
        if not (norms[place] <= tolerance).all():
            worst = int(np.argmax(np.nan_to_num(norms[place], nan=np.inf)))
            raise RunError(
                f"The gradient of a linear head must fall to {tolerance:g} of its first value, but that of fold model "
                f"{first_fold_model + worst} at C = {costs[place]:.3g} is at {norms[place, worst]:.3g} after "
                f"{_MAX_NEWTON} steps. Use a stronger penalty, or leave out the backbone."
            )
        kernel, bias = problem.raw(solver.parameters)
        start = points[place] = np.ascontiguousarray(kernel), np.ascontiguousarray(bias)
        losses[place] = problem.losses(solver.logits) / problem.weights[:, :, 0].sum(axis=0)
    kernels, biases = zip(*points, strict=True)
    return HeadPath(np.stack(kernels), np.stack(biases), losses, norms)


class _Newton:
    """Newton's method for a group of fold models.

    Args:
        problem: Losses of the fold models.
        tolerance: See `fit_path`.
        compute: Map over fold models.
    """

    def __init__(self, problem: LogisticLoss, tolerance: float, compute: Map) -> None:
        self._problem, self._tolerance = problem, tolerance
        self._preconditioner = _Preconditioner(problem, compute)
        # The class frequencies are the solution for an infinite penalty.
        self._zero = np.zeros(problem.shape)
        self._zero[-1] = problem.log_odds()
        self._move_to(self._zero)
        first = problem.pull_back(problem.slopes(problem.probabilities(self.logits)))
        # If no feature varies, the gradient at weights of zero is a rounding error, and the solution is there.
        self._reference = np.maximum(_norms(first), 1e-6 * problem.weights[:, :, 0].sum(axis=0))

    def _move_to(self, parameters: Floats) -> None:
        self.parameters = parameters
        self.logits: Floats = np.asarray(self._problem.logits(parameters), np.float64)

    def minimise(self, penalty: float, start: _Point | None) -> Floats:
        """Minimise the losses with a penalty, and return the relative norms of the gradients at the end.

        Args:
            penalty: Weight of `|w|^2 / 2` relative to the sum of the losses, 1 / C.
            start: Kernel and bias at which to begin; None to begin with weights of zero.
        """
        problem, full_step = self._problem, self._problem.n_features <= _FULL_NEWTON_FEATURES
        self._move_to(self._zero if start is None else problem.standardised(*start))
        self._stale = np.ones(problem.shape[1], bool)  # fold models whose Hessian must be recomputed
        for _ in range(_MAX_NEWTON):
            probability = problem.probabilities(self.logits)
            gradient: Floats = np.asarray(problem.pull_back(problem.slopes(probability)), np.float64)
            gradient[:-1] += penalty * self.parameters[:-1]
            norms: Floats = _norms(gradient) / self._reference
            active = norms > self._tolerance
            if not active.any() or not np.isfinite(norms).all():
                return norms
            stale = active & (self._stale | full_step)
            self._preconditioner.update(probability, penalty, stale)
            enough = np.clip(norms, 1e-4, 0.05)
            step, n_iterations = self._conjugate_gradients(probability, gradient, penalty, enough, active)
            self._stale = np.where(active, n_iterations > _SLOW_CG, self._stale)
            self._move(step, gradient, penalty, active)
        return norms

    def _conjugate_gradients(
        self,
        probability: Floats,
        gradient: Floats,
        penalty: float,
        enough: Floats,
        active: npt.NDArray[np.bool_],
    ) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Solve the Newton equations of the active fold models; the directions of the others are 0.

        Args:
            probability: Probabilities at the current parameters.
            gradient: Gradient at the current parameters.
            penalty: See `minimise`.
            enough: Largest norm of the residual, relative to that of the gradient. Shape (n_fold_models,).
            active: Fold models to solve. Shape (n_fold_models,).
        """
        problem, active = self._problem, active.copy()
        n_iterations = np.zeros(problem.shape[1], np.int64)
        # Scaled to a norm of 1, so that float32 neither underflows nor overflows.
        size = np.maximum(_norms(gradient), np.finfo(np.float64).tiny)[:, None]
        residual = np.where(active[:, None], -gradient / size, 0.0).astype(np.float32)
        solution = np.zeros(problem.shape, np.float32)
        preconditioned = self._preconditioner.solve(residual, active)
        direction = preconditioned.copy()
        product = _dots(residual, preconditioned)
        probability, weights = probability.astype(np.float32), problem.weights.astype(np.float32)
        for _ in range(_MAX_CG):
            if not active.any():
                break
            curved = problem.hessian_product(probability, weights, direction)
            curved[:-1] += np.float32(penalty) * direction[:-1]
            curvature = _dots(direction, curved)
            active &= curvature > 0  # also false for nan
            rate = np.where(active, product / np.where(active, curvature, 1.0), 0.0)[:, None].astype(np.float32)
            solution += rate * direction
            residual -= rate * curved
            n_iterations += active
            active &= _norms(residual) > enough
            preconditioned = self._preconditioner.solve(residual, active)
            new_product = _dots(residual, preconditioned)
            ratio = np.where(active, new_product / np.where(active, product, 1.0), 0.0)[:, None].astype(np.float32)
            direction = np.where(active[:, None], preconditioned + ratio * direction, direction)
            product = new_product
        return solution.astype(np.float64) * size, n_iterations

    def _move(self, step: Floats, gradient: Floats, penalty: float, active: npt.NDArray[np.bool_]) -> None:
        """Move the active fold models along their steps, halved until the objective decreases sufficiently."""
        problem = self._problem
        change = problem.logits(step)
        slope = _dots(gradient, step)
        before = self._objective(self.parameters, self.logits, penalty)
        length = np.where(active, 1.0, 0.0)
        for _ in range(40):
            moved = self.parameters + length[:, None] * step
            logits = self.logits + length[:, None] * change
            after = self._objective(moved, logits, penalty)
            poor = active & ~(after <= before + _LEAST_DECREASE * length * slope + _ROUNDING * np.abs(before))
            if not poor.any():
                break
            length = np.where(poor, length / 2, length)
        self.parameters, self.logits = moved, logits

    def _objective(self, parameters: Floats, logits: Floats, penalty: float) -> Floats:
        found: Floats = self._problem.losses(logits) + penalty / 2 * _dots(parameters[:-1], parameters[:-1])
        return found


def _dots(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> Floats:
    """Return the inner product per fold model, summed in float64. Shape (n_fold_models,)."""
    found: Floats = np.sum(one * other, axis=(0, 2), dtype=np.float64)
    return found


def _norms(array: npt.NDArray[np.floating]) -> Floats:
    found: Floats = np.sqrt(_dots(array, array))
    return found
