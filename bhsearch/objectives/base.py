"""What an objective returns: intermediate values of a trial and its result, as plain records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.models.training.linear_probe import Array, Heads

MS_PER_IMAGE, MODEL_MB = "ms_per_image", "model_mb"  # names of the costs of the deployed model


@dataclass(frozen=True)
class IntermediateValue:
    """How a trial stands on its way.

    Attributes:
        step: Shares of the folds' schedules that are done, over all folds, from 0; the same for every trial.
        mean: Mean score over the folds so far, the one in training included.
        fold: Score of the fold that has just ended; None inside a fold.
    """

    step: int
    mean: float
    fold: float | None


ReportCallback = Callable[[IntermediateValue], None]  # told how a trial stands; raises `Pruned` to end it


class Pruned(Exception):  # noqa: N818  # no error: a decision
    """A trial is not worth going on with.

    Attributes:
        curves: What was seen of it, as in `TrialResult`.
        seconds: What it took.
    """

    def __init__(self) -> None:
        super().__init__("pruned")
        self.curves: dict[str, list[float]] = {}
        self.seconds = 0.0


@dataclass(frozen=True, eq=False)
class TrialResult:
    """What one trial gave.

    Attributes:
        score: Mean over folds and repeats of the case-weighted ROC AUC on out-of-fold predictions, at the last epoch.
        probability: Out-of-fold P(malignant). Shape (n_repeats, n_images).
        curves: Per look (frozen: per epoch), from the image itself: `auc` (as the score), `loss` (out-of-fold,
            case-weighted) and `training_loss`.
        model: What the model is, JSON-able: `kind` (`heads` or `networks`), `views` that test-time augmentation
            averages, and what else `networks.deployed` needs.
        arrays: Its weights.
        seconds: What it took, features included where they had to be computed.
        cost: Further costs, by the name of a metric: `MS_PER_IMAGE` and `MODEL_MB` of the deployed model, and what the
            regime adds. nan where a cost is not known.
    """

    score: float
    probability: Array
    curves: dict[str, list[float]]
    model: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]
    seconds: float
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def heads(self) -> Heads:
        """The heads of a frozen trial, one per fold and repeat."""
        return Heads.from_arrays(self.arrays, self.model["linear"])


def sigmoid(logits: Array) -> Array:
    """Probabilities, in float32 and without overflow."""
    return (1.0 / (1.0 + np.exp(-np.clip(logits, -80.0, 80.0)))).astype(np.float32)
