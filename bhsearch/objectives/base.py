"""Records that an objective reports and returns: intermediate values, and the result of a trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array
from bhsearch.models.training.heads import Heads

MS_PER_IMAGE, MODEL_MB = "ms_per_image", "model_mb"  # metric names: inference time and size of the deployed model


@dataclass(frozen=True)
class IntermediateValue:
    """An intermediate score of a running trial.

    Attributes:
        step: Index of the evaluation, counted from 0 over all folds. Equal steps of two trials are comparable, because
            every fold has the same number of evaluations.
        mean: Mean score over the finished folds and the running fold.
        fold: Score of the fold, if the evaluation is the last one of a fold; otherwise None.
    """

    step: int
    mean: float
    fold: float | None


ReportCallback = Callable[[IntermediateValue], None]  # receives intermediate values; raises `Pruned` to end the trial


class Pruned(Exception):  # noqa: N818  # a decision, not an error
    """The trial is ended early by the pruner, because its intermediate values are poor.

    Attributes:
        curves: Learning curves up to the pruning; see `TrialResult.curves`.
        seconds: Duration of the trial.
    """

    def __init__(self) -> None:
        super().__init__("pruned")
        self.curves: dict[str, list[float]] = {}
        self.seconds = 0.0


@dataclass(frozen=True, eq=False)
class TrialResult:
    """The result of one complete trial.

    Attributes:
        score: Case-weighted ROC AUC of out-of-fold predictions at the end of training, mean over folds and repeats; the
            mixed score if shifts count in it.
        probability: Out-of-fold P(malignant) of unchanged images. Shape (n_repeats, n_images).
        curves: Learning curves without test-time augmentation: `auc` (computed like the score), `loss` (out-of-fold,
            case-weighted) and `training_loss`. One value per evaluation of a finetuned network, or per epoch of heads
            with a hidden layer. For linear heads, one value per penalty, from the strongest one to that of the trial,
            with the penalties as `log10_penalty`.
        model: JSON-compatible description of the model: `kind` (`heads` or `networks`), `views` of test-time
            augmentation, and further keys for `models.inference_model`. Linear heads have a `gradient_norm`: the
            largest norm of a fold model's gradient relative to that at weights of zero, the certificate of convergence.
        arrays: Weights of the model, by name.
        seconds: Duration of the trial, including the computation of its features.
        cost: Costs by metric name: `MS_PER_IMAGE` and `MODEL_MB` of the deployed model, and further costs of training
            in the finetune regime. nan if unknown.
        shifted: Out-of-fold P(malignant) of the images under each shift that counts in the score, in the order of
            `SHIFTS`. Shape (n_repeats, n_images) each.
    """

    score: float
    probability: Float32Array
    curves: dict[str, list[float]]
    model: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]
    seconds: float
    cost: dict[str, float] = field(default_factory=dict)
    shifted: tuple[Float32Array, ...] = ()

    @property
    def out_of_fold(self) -> Float32Array:
        """All probabilities on which the score depends: those of unchanged images, then those under each shift.

        Shape (n_repeats * (1 + n_shifts), n_images).
        """
        return np.concatenate([self.probability, *self.shifted])

    @property
    def milliseconds(self) -> float | None:
        """Inference time of the deployed model per image; None if unknown."""
        return known_milliseconds(self.cost)

    @property
    def heads(self) -> Heads:
        """The trained heads of a frozen trial, one per fold and repeat."""
        return Heads.from_arrays(self.arrays, self.model["linear"])


def known_milliseconds(cost: Mapping[str, float]) -> float | None:
    """Return the inference time per image from the costs of a trial; None if it is unknown."""
    milliseconds = cost.get(MS_PER_IMAGE, math.nan)
    return milliseconds if math.isfinite(milliseconds) else None
