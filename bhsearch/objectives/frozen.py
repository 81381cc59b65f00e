"""The objective of the frozen regime, which trains heads on cached features of frozen backbones."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array
from bhsearch.data.images.pixel_cache import Progress
from bhsearch.data.splits import training_mask, training_weights, validation_mask
from bhsearch.errors import RunError
from bhsearch.evaluation.predictions import case_weights, six_digits
from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.features import FeatureCache
from bhsearch.models.training.linear_probe import HeadParams, Heads, Moments, fit
from bhsearch.objectives.base import MODEL_MB, MS_PER_IMAGE, ReportCallback, TrialResult
from bhsearch.objectives.scoring import OutOfFoldScorer
from bhsearch.objectives.space import Params
from bhsearch.tasks import Task


class FeatureProgress:
    """Progress messages about the features that a trial computes, shared by the feature cache and the objective.

    Args:
        tell: Called with progress messages.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.views: Sequence[str] = ()  # views of the running trial, in order of computation

    def __call__(self, backbone: str, view: str) -> Progress:
        """Return a progress callback for the images of one view."""
        place = f", view {self.views.index(view) + 1} of {len(self.views)}" if view in self.views else ""

        def progress(done: int, total: int) -> None:
            self.tell(f"computing features of {backbone}: {done}/{total}{place}")

        return progress


class FrozenObjective:
    """The objective of the frozen regime: a callable that scores a parameter set.

    Args:
        features: Feature cache of the development images.
        backbones: Backbones of the space, by name.
        label: Class of each development image, 0 or 1. Shape (n_images,).
        fold: Validation fold of each development image in each repeat. Shape (n_repeats, n_images).
        group: Group number of each development image. Shape (n_images,).
        seed: Seed of initial weights, order of rows and dropout. All trials use the same seed, so that their scores
            differ only because of their parameters.
        feature_progress: Receives the activity of the trial; None for no progress messages.
        task: Task that names the loss, the link function and the score.
    """

    def __init__(
        self,
        features: FeatureCache,
        backbones: Mapping[str, Backbone],
        label: npt.NDArray[np.int8],
        fold: npt.NDArray[np.int8],
        group: npt.NDArray[np.int64],
        seed: int,
        feature_progress: FeatureProgress | None = None,
        *,
        task: Task,
    ) -> None:
        self._features, self._backbones, self._seed, self._feature_progress = (
            features,
            backbones,
            seed,
            feature_progress,
        )
        self._task, self._scorer = task, OutOfFoldScorer(label, fold, group, task)
        self._label, self._fold, self._case_weights = label, fold, case_weights(group, fold)
        self._repeat_folds = [(repeat, k) for repeat in range(len(fold)) for k in range(int(fold.max()) + 1)]
        self._held_out = [np.flatnonzero(validation_mask(fold, repeat, k)) for repeat, k in self._repeat_folds]
        longest = max(map(len, self._held_out))
        self._padded = np.stack([np.resize(rows, longest) for rows in self._held_out])
        self._weights = np.stack(
            [training_weights(group, training_mask(fold, repeat, k)) for repeat, k in self._repeat_folds], axis=1
        )
        self._moments: dict[tuple[Backbone, str], Moments] = {}

    def examples(self) -> dict[str, npt.NDArray[np.uint8]]:
        """Return an empty dict, because the augmented views of the frozen regime are fixed and need no examples."""
        return {}

    def __call__(self, params: Params, on_report: ReportCallback | None = None) -> TrialResult:  # noqa: ARG002  # never pruned
        """Train the heads of all folds with one parameter set and score their out-of-fold predictions.

        Args:
            params: Parameters of the frozen space.
            on_report: Ignored, because frozen trials are not pruned.

        Raises:
            RunError: If training produces NaN or infinite values.
        """
        started = time.perf_counter()
        backbone = self._backbones[params["backbone"]]
        view_names = views_of(params["policy"], params["views"])
        if self._feature_progress is not None:
            self._feature_progress.views = view_names
        features = np.stack([self._features.get(backbone, view) for view in view_names])
        if self._feature_progress is not None:
            self._feature_progress.tell("training heads")
        fitted = fit(
            features,
            self._label,
            self._balanced() if params["class_balance"] else self._weights,
            self._padded,
            [self._moments_of(backbone, view, rows) for view, rows in zip(view_names, features, strict=True)],
            head_params(params),
            self._seed,
            loss=self._task.loss,
        )
        averaged = view_names if params["tta"] else view_names[:1]
        by_view = [
            self._scatter(fitted.heads.held_out_logits(rows, self._padded)) for rows in features[: len(averaged)]
        ]
        probability: Float32Array = six_digits(
            np.stack([self._scorer.probability(logits) for logits in by_view]).mean(axis=0, dtype=np.float32)
        )
        if not np.isfinite(probability).all():
            raise RunError(
                "Training diverged: the predictions contain NaN or infinite values (learning rate "
                f"{params['learning_rate']:.3g})."
            )
        per_epoch = six_digits(self._scorer.probability(np.stack([self._scatter(logits) for logits in fitted.logits])))
        curve = self._scorer.epochs(per_epoch)
        return TrialResult(
            float(self._scorer.epochs(probability[None])[0]),
            probability,
            {"auc": curve.tolist(), "loss": self._losses(per_epoch), "training_loss": fitted.losses.tolist()},
            {"kind": "heads", "views": list(averaged), "linear": fitted.heads.linear},
            fitted.heads.to_arrays(),
            time.perf_counter() - started,
            self._cost(backbone, len(averaged), fitted.heads),
        )

    def _cost(self, backbone: Backbone, n_views: int, heads: Heads) -> dict[str, float]:
        """Return the cost of the deployed model, which runs one backbone for all heads once per averaged view."""
        cost = self._features.cost(backbone)
        weights = (heads.kernel, heads.bias, heads.output_weights, heads.output_bias)
        return {
            MS_PER_IMAGE: n_views * cost.milliseconds,
            MODEL_MB: cost.megabytes + sum(array.nbytes for array in weights) / 1e6,
        }

    def _moments_of(self, backbone: Backbone, view: str, features: Float32Array) -> Moments:
        """Return the moments of features for standardisation, weighted by group but not by class balance."""
        key = (backbone, view)
        if key not in self._moments:
            self._moments[key] = Moments.of(features, self._weights)
        return self._moments[key]

    def _losses(self, probability: Float32Array) -> list[float]:
        """Return the case-weighted cross-entropy of out-of-fold predictions per epoch.

        Args:
            probability: Shape (n_epochs, n_repeats, n_images).
        """
        right = np.where(self._label == 1, probability, 1 - probability)
        weight = self._case_weights / self._case_weights.sum()
        return [float(loss) for loss in -np.einsum("ern,rn->e", np.log(np.maximum(right, 1e-7)), weight)]

    def _balanced(self) -> npt.NDArray[np.float64]:
        """Return training weights in which each class has half of the total weight of a fold.

        Shape (n_images, n_fold_models).
        """
        classes = [self._weights * (self._label == value)[:, None] for value in (0, 1)]
        balanced: npt.NDArray[np.float64] = classes[0] / classes[0].sum(axis=0) + classes[1] / classes[1].sum(axis=0)
        return balanced

    def _scatter(self, logits: Float32Array) -> Float32Array:
        """Return logits in the order of the images.

        Args:
            logits: Logits of the validation images of each fold. Shape (n_fold_models, n_held_out).

        Returns:
            Logits of all images in each repeat. Shape (n_repeats, n_images).
        """
        placed = np.empty(self._fold.shape, np.float32)
        for (repeat, _), rows, values in zip(self._repeat_folds, self._held_out, logits, strict=True):
            placed[repeat, rows] = values[: len(rows)]
        return placed


def head_params(params: Params) -> HeadParams:
    """Return the part of a parameter set that the training of heads needs."""
    return HeadParams(**{each.name: params[each.name] for each in fields(HeadParams)})
