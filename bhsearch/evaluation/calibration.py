"""Calibration and the operating threshold, both fixed on out-of-fold predictions before the sealed test is opened."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bhsearch.errors import DataError
from bhsearch.evaluation.predictions import case_weights
from bhsearch.evaluation.thresholds import best_threshold

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import FloatArray, IntArray, Predictions

# Probabilities of 0 and 1 have no logit. float32 knows no number between 1 - 6e-8 and 1.
_EDGE = 1e-7
SLOPES = (0.01, 100.0)  # a slope of zero would make all images alike, a negative one turn the ranking over

_N_PARTS = 10  # of the groups, for cross-fitting

THRESHOLD_RULE = (
    "The threshold is the probability with the highest balanced accuracy on the out-of-fold predictions, every case "
    "counting the same; it was fixed before the sealed cases were opened."
)
CALIBRATION_NOTE = (
    "Calibration and threshold come from out-of-fold predictions of single fold models; "
    "the deployed model is their ensemble or a refit, so the test reports its calibration anew."
)


@dataclass(frozen=True)
class Calibration:
    """An increasing line on logits.

    Attributes:
        slope: Above zero; below 1 where the model was too sure of itself.
        offset: Added after the slope.
    """

    slope: float
    offset: float

    def apply(self, probability: npt.NDArray[Any]) -> FloatArray:
        """Calibrated probabilities: logit, slope and offset, sigmoid. Any shape."""
        return _sigmoid(self.slope * logit(probability) + self.offset)


NO_CALIBRATION = Calibration(1.0, 0.0)


@dataclass(frozen=True)
class OperatingPoint:
    """What turns a model's output into a decision.

    Attributes:
        calibration: Calibration of the probability; `NO_CALIBRATION` where the fitted one did not help.
        threshold: A calibrated probability from here on is called malignant.
        brier_before: Out-of-fold Brier score without a calibration, every group counting the same.
        brier_after: The same with calibrations that were fitted without the group in question; nan where there are too
            few groups to fit any.
    """

    calibration: Calibration
    threshold: float
    brier_before: float
    brier_after: float

    def __str__(self) -> str:
        line = self.calibration
        if line != NO_CALIBRATION:
            return f"slope {line.slope:.3f}, offset {line.offset:+.3f}; threshold {self.threshold:.3f}"
        if math.isnan(self.brier_after):
            why = "with a single case of a class it cannot be checked"
        else:
            why = (
                "fitted without the case in question, it would raise the out-of-fold Brier score from "
                f"{self.brier_before:.4f} to {self.brier_after:.4f}"
            )
        return f"none, since {why}; threshold {self.threshold:.3f}"


def logit(probability: npt.NDArray[Any]) -> FloatArray:
    """Logits in float64, those of 0 and 1 at the edge of what float32 can tell from them. Any shape."""
    inside = np.clip(np.asarray(probability, dtype=np.float64), _EDGE, 1 - _EDGE)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def fit_calibration(
    probability: npt.NDArray[Any], label: npt.NDArray[np.int8], weight: npt.NDArray[Any]
) -> Calibration:
    """Platt scaling with weights: the slope and offset on logits under which the labels are most likely.

    Platt's targets stand in for the labels, a little inside 0 and 1 by how much evidence there is, so that classes
    that happen to be apart do not make the slope endless. The loss is convex, its start fixed: nothing is random.

    Args:
        probability: P(malignant). Shape (n,).
        label: 0 or 1. Shape (n,).
        weight: 0 or more, and such that an independent unit sums to 1: 1/(images of its group). Shape (n,).

    Returns:
        The calibration; its slope is within `SLOPES`.

    Raises:
        DataError: If a class has no weight.

    Source:
        Platt, "Probabilistic outputs for support vector machines", 1999, with the sums of weights as his counts.
    """
    from scipy.optimize import minimize

    label, weight = np.asarray(label, np.float64), np.asarray(weight, np.float64)
    positive, negative = float(weight @ label), float(weight @ (1 - label))
    if not positive > 0 or not negative > 0:
        raise DataError(
            f"calibration needs both classes, but benign images weigh {negative:g} and malignant ones {positive:g}."
        )
    x = logit(probability)
    target = np.where(label == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))
    share = weight / weight.sum()

    def loss(line: FloatArray) -> tuple[float, FloatArray]:
        z = line[0] * x + line[1]
        error = share * (_sigmoid(z) - target)
        return float(share @ (np.logaddexp(0.0, z) - target * z)), np.array([error @ x, error.sum()])

    found = minimize(
        loss,
        np.array([1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=(SLOPES, (None, None)),
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 500},
    )
    return Calibration(float(found.x[0]), float(found.x[1]))


def operating_point(predictions: Predictions) -> OperatingPoint:
    """Fix calibration, then the threshold, on all out-of-fold predictions: logits averaged over repeats.

    Args:
        predictions: Out-of-fold predictions of the trial that was chosen; every group of the development cases counts
            the same.

    Returns:
        The calibration, and the threshold on calibrated probabilities with the highest case-weighted balanced accuracy.
        The calibration is left out where it makes the Brier score worse under cross-fitting by group.

    Raises:
        DataError: If a class is missing.

    Source:
        Ours (issue 4, point 2; issue 11, point 3.3).
    """
    label, group = predictions.label, predictions.group
    averaged = _sigmoid(logit(predictions.probability).mean(axis=0))
    weight = case_weights(group, np.zeros((1, len(predictions)), np.int8))[0]
    calibration = fit_calibration(averaged, label, weight)
    before = _brier(averaged, label, weight)
    after = _brier(_cross_fitted(averaged, label, weight, group), label, weight)
    if not after <= before:
        calibration = NO_CALIBRATION
    return OperatingPoint(calibration, best_threshold(label, calibration.apply(averaged), weight), before, after)


def _brier(probability: FloatArray, label: npt.NDArray[np.int8], weight: npt.NDArray[Any]) -> float:
    return float(weight @ (probability - label) ** 2 / weight.sum())


def _cross_fitted(
    probability: FloatArray, label: npt.NDArray[np.int8], weight: npt.NDArray[Any], group: IntArray
) -> FloatArray:
    """Each image calibrated by a line fitted on other groups; nan where a class has a single group. Shape (n,)."""
    _, number = np.unique(group, return_inverse=True)
    share = np.bincount(number, label) / np.bincount(number)
    n_parts = min(_N_PARTS, *(len(np.unique(number[label == value])) for value in (0, 1)))
    found = np.full(len(label), np.nan)
    if n_parts < 2:
        return found
    # Groups in the order of their labels are dealt in turn, so that every part has its share of both classes.
    part = np.empty(len(share), dtype=np.int64)
    part[np.argsort(share, kind="stable")] = np.arange(len(share)) % n_parts
    for k in range(n_parts):
        inside = part[number] == k
        line = fit_calibration(probability[~inside], label[~inside], weight[~inside])
        found[inside] = line.apply(probability[inside])
    return found


def _sigmoid(logits: FloatArray) -> FloatArray:
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits)))
