"""Results of an objective: intermediate values and the trial result, as plain records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array
from bhsearch.models.training.linear_probe import Heads

MS_PER_IMAGE, MODEL_MB = "ms_per_image", "model_mb"  # metric names of the costs of the deployed model


@dataclass(frozen=True)
class IntermediateValue:
    """Intermediate score of a running trial.

    Attributes:
        step: Number of evaluations done over all folds, from 0; comparable between trials.
        mean: Mean score over the folds so far, the running one included.
        fold: Score of the fold that has just ended; None within a fold.
    """

    step: int
    mean: float
    fold: float | None


ReportCallback = Callable[[IntermediateValue], None]  # raises `Pruned` to end the trial


class Pruned(Exception):  # noqa: N818  # a decision, not an error
    """Raised to end an unpromising trial.

    Attributes:
        curves: Curves so far, as in `TrialResult`.
        seconds: Duration of the trial.
    """

    def __init__(self) -> None:
        super().__init__("pruned")
        self.curves: dict[str, list[float]] = {}
        self.seconds = 0.0


@dataclass(frozen=True, eq=False)
class TrialResult:
    """Result of one trial.

    Attributes:
        score: Mean over folds and repeats of the case-weighted ROC AUC of out-of-fold predictions at the last epoch.
        probability: Out-of-fold P(malignant). Shape (n_repeats, n_images).
        curves: Values per evaluation (frozen regime: per epoch) for the image itself: `auc` (like the score), `loss`
            (out-of-fold, case-weighted) and `training_loss`.
        model: JSON-able description of the model: `kind` (`heads` or `networks`), `views` of test-time augmentation,
            and further keys for `models.inference_model`.
        arrays: Its weights.
        seconds: Duration of the trial, including the computation of its features.
        cost: Further costs by metric name: `MS_PER_IMAGE` and `MODEL_MB` of the deployed model, and those of the
            regime. nan where unknown.
    """

    score: float
    probability: Float32Array
    curves: dict[str, list[float]]
    model: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]
    seconds: float
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def heads(self) -> Heads:
        """The heads of a frozen trial, one per fold and repeat."""
        return Heads.from_arrays(self.arrays, self.model["linear"])


def sigmoid(logits: Float32Array) -> Float32Array:
    """Return probabilities in float32 without overflow."""
    return (1.0 / (1.0 + np.exp(-np.clip(logits, -80.0, 80.0)))).astype(np.float32)
