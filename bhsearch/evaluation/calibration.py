"""Calibration and decision threshold, fitted to out-of-fold predictions before the sealed test set is used."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bhsearch.errors import DataError
from bhsearch.evaluation.metrics import weighted_brier
from bhsearch.evaluation.predictions import case_weights
from bhsearch.evaluation.thresholds import FIXED_RATES, RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bhsearch.evaluation.predictions import FloatArray, IntArray, Predictions
    from bhsearch.tasks.base import Task

# Bound of clipped probabilities: 0 and 1 have no finite logit, and float32 has no number between 1 - 6e-8 and 1.
_EDGE = 1e-7
SLOPES = (0.01, 100.0)  # a slope of 0 would give all images the same probability, a negative one reverse the ranking

_N_PARTS = 10  # number of parts into which groups are divided for cross-fitting

THRESHOLD_RULE = (
    "The threshold is the probability with the highest balanced accuracy on the out-of-fold predictions, every case "
    "counting the same; it was fixed before the sealed cases were opened."
)
CALIBRATION_NOTE = (
    "Calibration and threshold come from out-of-fold predictions of single fold models; "
    "the deployed model is their ensemble or a refit, so the test measures its calibration again."
)


@dataclass(frozen=True)
class Calibration:
    """Calibration of probabilities by an increasing linear function of their logits.

    Attributes:
        slope: Factor on the logit, above 0. A slope below 1 corrects an overconfident model.
        offset: Constant added to the scaled logit.
    """

    slope: float
    offset: float

    def apply(self, probability: npt.NDArray[Any]) -> FloatArray:
        """Return calibrated probabilities: sigmoid(slope * logit + offset). Any shape."""
        return _sigmoid(self.slope * logit(probability) + self.offset)


NO_CALIBRATION = Calibration(1.0, 0.0)


@dataclass(frozen=True)
class OperatingPoint:
    """Calibration and threshold of a model.

    Attributes:
        calibration: Calibration of probabilities; `NO_CALIBRATION` if the fitted calibration was rejected.
        threshold: Calibrated probability from which an image is classified as malignant.
        brier_before: Out-of-fold Brier score without calibration, with equal weight for every group.
        brier_after: Out-of-fold Brier score with cross-fitted calibration, where each group is calibrated by a fit to
            other groups; nan if a class has a single group, so that cross-fitting is impossible.
        fixed_rates: Thresholds on calibrated probabilities by name of `thresholds.FIXED_RATES`.
    """

    calibration: Calibration
    threshold: float
    brier_before: float
    brier_after: float
    fixed_rates: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.calibration != NO_CALIBRATION:
            slope, offset = self.calibration.slope, self.calibration.offset
            return f"slope {slope:.3f}, offset {offset:+.3f}; threshold {self.threshold:.3f}"
        if math.isnan(self.brier_after):
            why = "with a single case of a class it cannot be checked"
        else:
            why = (
                "fitted without the case in question, it would raise the out-of-fold Brier score from "
                f"{self.brier_before:.4f} to {self.brier_after:.4f}"
            )
        return f"none, since {why}; threshold {self.threshold:.3f}"


def logit(probability: npt.NDArray[Any], edge: float = _EDGE) -> FloatArray:
    """Return the logits of probabilities clipped to [edge, 1 - edge], in float64. Any shape."""
    inside = np.clip(np.asarray(probability, dtype=np.float64), edge, 1 - edge)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def fit_calibration(
    probability: npt.NDArray[Any], label: npt.NDArray[np.int8], weight: npt.NDArray[Any]
) -> Calibration:
    """Fit weighted Platt scaling: the slope and offset on logits that maximise the likelihood of the labels.

    As proposed by Platt, labels are replaced by targets within (0, 1) that depend on the number of examples, so that
    the slope stays finite if the classes are perfectly separated. The result is deterministic, since the loss is convex
    and the optimisation starts from fixed values.

    Args:
        probability: P(malignant). Shape (n_images,).
        label: 0 or 1. Shape (n_images,).
        weight: Weight per image, 0 or more. Weights must sum to 1 within each independent unit, such as 1/(number of
            images of the group). Shape (n_images,).

    Returns:
        The calibration, with a slope within `SLOPES`.

    Raises:
        DataError: If a class has no weight.

    Source:
        Platt, "Probabilistic outputs for support vector machines", 1999, with sums of weights in place of counts.
    """
    from scipy.optimize import minimize

    label, weight = np.asarray(label, np.float64), np.asarray(weight, np.float64)
    positive, negative = float(weight @ label), float(weight @ (1 - label))
    if not positive > 0 or not negative > 0:
        raise DataError(
            "Calibration requires images of both classes with positive weight, but the total weight of benign images "
            f"is {negative:g} and that of malignant images {positive:g}."
        )
    x = logit(probability)
    target = np.where(label == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))
    share = weight / weight.sum()

    def loss(line: FloatArray) -> tuple[float, FloatArray]:
        z = line[0] * x + line[1]
        error = share * (_sigmoid(z) - target)
        return float(share @ (np.logaddexp(0.0, z) - target * z)), np.array([error @ x, error.sum()])

    optimum = minimize(
        loss,
        np.array([1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=(SLOPES, (None, None)),
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 500},
    )
    return Calibration(float(optimum.x[0]), float(optimum.x[1]))


# Functions (probability, label, weight) -> calibration by name; `Task.calibration` names the method of a task.
METHODS: dict[str, Callable[[npt.NDArray[Any], npt.NDArray[np.int8], npt.NDArray[Any]], Calibration]] = {
    "platt": fit_calibration
}


def operating_point(predictions: Predictions, task: Task) -> OperatingPoint:
    """Fit the calibration and then the threshold to out-of-fold predictions, with logits averaged over repeats.

    Every group of development cases has the same weight.

    Args:
        predictions: Out-of-fold predictions of the selected trial.
        task: Task that names the calibration method and the threshold rule.

    Returns:
        The fitted calibration, or `NO_CALIBRATION` if calibration raises the cross-fitted Brier score or a class has a
        single group; and the thresholds on calibrated probabilities, of the task's rule and of `FIXED_RATES`.

    Raises:
        DataError: If a class is missing.

    Source:
        Ours: a calibration is used only if it does not raise the Brier score of groups that it was not fitted to.
    """
    label, group = predictions.label, predictions.group
    averaged = _sigmoid(logit(predictions.probability).mean(axis=0))
    weight = case_weights(group, np.zeros((1, len(predictions)), np.int8))[0]
    calibration = METHODS[task.calibration](averaged, label, weight)
    before = float(weighted_brier(label, averaged, weight))
    after = float(weighted_brier(label, _cross_fitted(averaged, label, weight, group, task), weight))
    if not after <= before:
        calibration = NO_CALIBRATION
    calibrated = calibration.apply(averaged)
    threshold = RULES[task.threshold_rule](label, calibrated, weight)
    fixed_rates = {name: rule(label, calibrated, weight) for name, rule in FIXED_RATES.items()}
    return OperatingPoint(calibration, threshold, before, after, fixed_rates)


def _cross_fitted(
    probability: FloatArray, label: npt.NDArray[np.int8], weight: npt.NDArray[Any], group: IntArray, task: Task
) -> FloatArray:
    """Return probabilities calibrated by fits to other groups; nan if a class has a single group. Shape (n_images,)."""
    _, number = np.unique(group, return_inverse=True)
    share = np.bincount(number, label) / np.bincount(number)
    n_parts = min(_N_PARTS, *(len(np.unique(number[label == value])) for value in (0, 1)))
    calibrated = np.full(len(label), np.nan)
    if n_parts < 2:
        return calibrated
    # Assign groups to parts in turn, ordered by their share of malignant images, so that every part has both classes.
    part = np.empty(len(share), dtype=np.int64)
    part[np.argsort(share, kind="stable")] = np.arange(len(share)) % n_parts
    for k in range(n_parts):
        inside = part[number] == k
        fitted = METHODS[task.calibration](probability[~inside], label[~inside], weight[~inside])
        calibrated[inside] = fitted.apply(probability[inside])
    return calibrated


def _sigmoid(logits: FloatArray) -> FloatArray:
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits)))
