"""Robustness of a trial: how its score and its labels change if the validation images are shifted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.metrics import METRICS, score
from bhsearch.evaluation.predictions import FloatArray, Predictions
from bhsearch.evaluation.thresholds import HardLabels
from bhsearch.tasks.base import Task

ROBUSTNESS_NOTE = (
    "The fold models predict their validation images again after a change of stain, brightness, compression, focus or "
    "resolution; each fold's threshold comes from unchanged images of its training part."
)


@dataclass(frozen=True)
class ShiftEffect:
    """Effect of one shift of the validation images.

    Attributes:
        auc: Score under the shift: case-weighted AUC, mean over folds.
        auc_change: `auc` minus the score of the unchanged images.
        balanced_accuracy_change: Balanced accuracy under the shift, minus that of the unchanged images.
        labels_changed: Case-weighted share of the labels that differ from those of the unchanged images, averaged over
            repeats. Between 0 and 1.
    """

    auc: float
    auc_change: float
    balanced_accuracy_change: float
    labels_changed: float


@dataclass(frozen=True)
class Robustness:
    """Effects of several shifts on one trial.

    Attributes:
        auc: Score of the unchanged images.
        balanced_accuracy: Balanced accuracy of the unchanged images.
        shifts: Effect of each shift, by name; at least one.
        is_default: Whether the parameters of the trial are the default ones of its backbone.
    """

    auc: float
    balanced_accuracy: float
    shifts: Mapping[str, ShiftEffect]
    is_default: bool = False

    @property
    def worst_auc_change(self) -> float:
        """Lowest change of the score over the shifts."""
        return min(effect.auc_change for effect in self.shifts.values())

    @property
    def mean_auc_change(self) -> float:
        """Mean change of the score over the shifts."""
        return float(np.mean([effect.auc_change for effect in self.shifts.values()]))

    @property
    def worst_balanced_accuracy_change(self) -> float:
        """Lowest change of the balanced accuracy over the shifts."""
        return min(effect.balanced_accuracy_change for effect in self.shifts.values())

    @property
    def labels_changed(self) -> float:
        """Share of the labels that a shift changes, mean over the shifts."""
        return float(np.mean([effect.labels_changed for effect in self.shifts.values()]))

    @property
    def worst_shift(self) -> str:
        """Name of the shift with the lowest change of the score."""
        return min(self.shifts, key=lambda name: self.shifts[name].auc_change)

    def summary(self) -> dict[str, float]:
        """Return the numbers over all shifts by name, for metrics and tables."""
        names = ("worst_auc_change", "mean_auc_change", "worst_balanced_accuracy_change", "labels_changed")
        return {name: getattr(self, name) for name in names}

    def metrics(self) -> dict[str, float]:
        """Return all numbers by name, those of a shift with the name of the shift and a slash before them."""
        each = {
            f"{shift}/{name}": value for shift, effect in self.shifts.items() for name, value in asdict(effect).items()
        }
        return self.summary() | each

    def to_record(self) -> dict[str, Any]:
        """Return the content as JSON-compatible values, with the numbers over all shifts."""
        return {**asdict(self), "shifts": {name: asdict(one) for name, one in self.shifts.items()}, **self.summary()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Robustness:
        """Restore the result from the values of `to_record`."""
        shifts = {name: ShiftEffect(**effect) for name, effect in record["shifts"].items()}
        return cls(record["auc"], record["balanced_accuracy"], shifts, record["is_default"])


def robustness(
    clean: Predictions, shifted: Mapping[str, npt.NDArray[np.floating]], threshold: FloatArray, task: Task
) -> Robustness:
    """Compare out-of-fold predictions of shifted images with those of the unchanged images.

    Args:
        clean: Out-of-fold predictions of the unchanged images.
        shifted: P(malignant) of the shifted images by name of the shift, from the fold models of `clean`. Shape
            (n_repeats, n_images) each.
        threshold: Probability from which an image of a fold is classified as malignant, both before and after a shift;
            chosen on unchanged images of the other folds. Shape (n_repeats, n_folds).
        task: Task that names the score.
    """
    before = HardLabels.at_thresholds(clean, threshold)
    balanced = METRICS["balanced_accuracy"]
    auc, accuracy = score(clean, task), balanced.value(clean, before)
    effects = {}
    for name, probability in shifted.items():
        predictions = replace(clean, probability=probability)
        after = HardLabels.at_thresholds(predictions, threshold)
        now = score(predictions, task)
        effects[name] = ShiftEffect(
            auc=now,
            auc_change=now - auc,
            balanced_accuracy_change=balanced.value(predictions, after) - accuracy,
            labels_changed=float(np.average(after.predicted != before.predicted, weights=clean.weight)),
        )
    return Robustness(auc, accuracy, effects)
