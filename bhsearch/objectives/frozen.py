"""The objective of the frozen regime, which trains heads on cached features of frozen backbones."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array
from bhsearch.data.splits import training_weights
from bhsearch.errors import RunError
from bhsearch.evaluation.predictions import six_digits
from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.features import FeatureCache
from bhsearch.models.training.heads import Heads, Moments, standardisation
from bhsearch.models.training.hidden_heads import fit
from bhsearch.models.training.logistic_path import HeadPath, fit_path
from bhsearch.objectives.base import MODEL_MB, MS_PER_IMAGE, ReportCallback, TrialResult
from bhsearch.objectives.costs import SHIFTED, FeatureCosts
from bhsearch.objectives.drawn_rows import DrawnRows
from bhsearch.objectives.feature_progress import FeatureProgress
from bhsearch.objectives.scoring import LINKS, OutOfFoldScorer, ValidationFolds
from bhsearch.objectives.space import HIDDEN_PENALTY, LOG10_PENALTY, Parameter, Params, views_in
from bhsearch.tasks import Task

_PATHS_BYTES = 1 << 27  # of solved paths that are kept in memory


@dataclass(frozen=True, eq=False)
class TrainedHeads:
    """Heads of a trial, and the course of their training.

    Attributes:
        heads: Trained heads.
        curves: Function that returns the learning curves by name; see `TrialResult.curves`.
        facts: Further entries of the description of the model.
    """

    heads: Heads
    curves: Callable[[], dict[str, list[float]]]
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class _Path:
    """Linear heads for the penalties that are solved so far, from the strongest one.

    Attributes:
        heads: Heads for each penalty.
        losses: Training loss for each penalty, averaged over fold models.
        gradient_norms: Largest relative gradient norm of the fold models for each penalty.
        scores, validation_losses: Score and loss of the out-of-fold predictions of the image itself for the first
            penalties; computed when a trial needs them.
        end: Solution for the last penalty, from which the path is continued.
    """

    heads: list[Heads] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    end: HeadPath | None = None

    def append(self, solved: HeadPath) -> None:
        """Add the solutions for the next penalties."""
        self.heads += [
            Heads.of_linear(kernel[:, :, 0], bias[:, 0])
            for kernel, bias in zip(solved.kernel, solved.bias, strict=True)
        ]
        self.losses += solved.losses.mean(axis=1).tolist()
        self.gradient_norms += solved.gradient_norms.max(axis=1).tolist()
        self.end = solved

    @property
    def nbytes(self) -> int:
        """Size of the solutions in bytes."""
        end = 0 if self.end is None else self.end.kernel.nbytes
        return end + sum(heads.kernel.nbytes for heads in self.heads)


class FrozenObjective:
    """The objective of the frozen regime: a callable that scores a parameter set.

    Args:
        features: Feature cache of the development images; its `shifted` count in the score.
        backbones: Backbones of the space, by name.
        label: Class of each development image, 0 or 1. Shape (n_images,).
        fold: Validation fold of each development image in each repeat. Shape (n_repeats, n_images).
        group: Group number of each development image. Shape (n_images,).
        seed: Seed of heads with a hidden layer: initial weights, and order of rows and views. All trials use the same
            seed, so that their scores differ only because of their parameters.
        feature_progress: Receives the activity of the trial; None for no progress messages.
        task: Task that names the loss, the link function and the score.
        held_out: Training and validation images of each fold model; None for those of the folds.
        shift_weight: Weight of the mean over the shifts in the score, from 0 to 1.
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
        held_out: ValidationFolds | None = None,
        shift_weight: float = 0.0,
    ) -> None:
        self._features, self._backbones, self._seed, self._feature_progress = (
            features,
            backbones,
            seed,
            feature_progress,
        )
        self._task, self._scorer = task, OutOfFoldScorer(label, fold, group, task)
        n_shifts = len(features.shifted)
        if bool(n_shifts) != (shift_weight > 0):
            raise ValueError(f"A weight of the shifts requires shifted features, but got {shift_weight=}, {n_shifts=}.")
        self._in_score = np.array([1 - shift_weight, *(shift_weight / n_shifts for _ in range(n_shifts))])
        self._label = label
        self._held_out = ValidationFolds(fold) if held_out is None else held_out
        self._drawn = DrawnRows.of(label, fold, group, self._held_out, task, seed)
        self._weights = np.stack([training_weights(group, mask) for mask in self._held_out.training], axis=1)
        # In each fold, each class has half of the training weight.
        classes = [self._weights * (label == value)[:, None] for value in (0, 1)]
        self._balanced = classes[0] / classes[0].sum(axis=0) + classes[1] / classes[1].sum(axis=0)
        self._moments: dict[tuple[Backbone, str], Moments] = {}
        self._paths: OrderedDict[tuple[Backbone, tuple[str, ...]], _Path] = OrderedDict()

    @property
    def features(self) -> FeatureCache:
        """Features of the development images."""
        return self._features

    def use(self, backbones: Mapping[str, Backbone]) -> None:
        """Replace the backbones by name, when it is decided which of them are joined."""
        self._backbones = backbones

    def examples(self) -> dict[str, npt.NDArray[np.uint8]]:
        """Return an empty dict, because the augmented views of the frozen regime are fixed and need no examples."""
        return {}

    def costs(self, space: Sequence[Parameter]) -> FeatureCosts:
        """Return the costs of the features that trials in a space need; a few images measure what is not cached."""
        if not any(row.name == "policy" for row in space):  # vectors, which cost nothing
            return FeatureCosts()
        policies, numbers = (row.choices for name in ("policy", "views") for row in space if row.name == name)
        views = dict.fromkeys(view for policy in policies for view in views_of(policy, max(numbers)))
        shifted = self._features.shifted
        seconds, cached, seconds_of_shifts = {}, {}, {}
        for name, backbone in self._backbones.items():
            seconds[name] = self._features.seconds_per_view(backbone)
            cached[name] = tuple(view for view in views if self._features.is_cached(backbone, view))
            if shifted:
                seconds_of_shifts[name] = sum(each.seconds_per_view(backbone) for each in shifted)
                ready = [view for view in views if all(each.is_cached(backbone, view) for each in shifted)]
                cached[name] += tuple(SHIFTED + view for view in ready)
        return FeatureCosts(seconds, cached, seconds_of_shifts)

    def __call__(self, params: Params, on_report: ReportCallback | None = None) -> TrialResult:  # noqa: ARG002  # never pruned
        """Train the heads of all folds with one parameter set and score their out-of-fold predictions.

        The learning curves are of unchanged images, also if shifts count in the score.

        Args:
            params: Parameters of the frozen space.
            on_report: Ignored, because frozen trials are not pruned.

        Raises:
            RunError: If the heads of a fold do not converge, or the predictions contain NaN or infinite values.
        """
        started = time.perf_counter()
        trained, averaged, probability = self.predictions(params)
        shifted = tuple(self._under(shift, params, averaged, trained.heads) for shift in self._features.shifted)
        return TrialResult(
            float(self._in_score @ self._scorer.epochs(np.stack([probability, *shifted]))),
            probability,
            trained.curves(),
            {"kind": "heads", "views": list(averaged), "linear": trained.heads.linear, **trained.facts},
            trained.heads.to_arrays(),
            time.perf_counter() - started,
            self._cost(self._backbones[params["backbone"]], len(averaged), trained.heads),
            shifted,
        )

    def _under(self, shift: FeatureCache, params: Params, views: Sequence[str], heads: Heads) -> Float32Array:
        """Return out-of-fold P(malignant) of shifted images, by heads that were trained on unchanged ones."""
        backbone = self._backbones[params["backbone"]]
        features = [shift.get(backbone, view) for view in views]
        return self._finite(self._held_out.out_of_fold(heads, features, self._scorer.probability))

    def _finite(self, probability: Float32Array) -> Float32Array:
        """Return probabilities if all are finite.

        Raises:
            RunError: If a probability is NaN or infinite.
        """
        if not np.isfinite(probability).all():
            raise RunError("Training diverged: the predictions contain NaN or infinite values.")
        return probability

    def predictions(self, params: Params) -> tuple[TrainedHeads, tuple[str, ...], Float32Array]:
        """Train the heads of all fold models with one parameter set.

        Args:
            params: Parameters of the frozen space.

        Returns:
            The heads, the views over which probabilities are averaged, and out-of-fold P(malignant), in the shape of
            `ValidationFolds.scatter`.

        Raises:
            RunError: If the heads of a fold do not converge, or the predictions contain NaN or infinite values.
        """
        backbone = self._backbones[params["backbone"]]
        view_names = views_in(params)
        if self._feature_progress is not None:
            self._feature_progress.views = [v for v in view_names if not self._features.is_cached(backbone, v)]
        by_view = [self._features.get(backbone, view) for view in view_names]
        features = np.stack(by_view) if len(by_view) > 1 else by_view[0][None]  # one view is not copied
        if self._feature_progress is not None:
            self._feature_progress.tell("training heads")
        moments = [self._moments_of(backbone, view, rows) for view, rows in zip(view_names, features, strict=True)]
        if params["hidden_units"]:
            trained = self._hidden(features, moments, params)
        else:
            path = self._paths.setdefault((backbone, view_names), _Path())
            trained = self._linear(features, moments, path, params["log10_penalty"])
            self._paths.move_to_end((backbone, view_names))
            self._forget_paths()
        averaged = view_names if params.get("tta") else view_names[:1]
        probability = self._held_out.out_of_fold(trained.heads, features[: len(averaged)], self._scorer.probability)
        return trained, averaged, self._finite(probability)

    def _hidden(self, features: Float32Array, moments: list[Moments], params: Params) -> TrainedHeads:
        """Train heads with a hidden layer, on some of the images if there are many; see `DrawnRows`."""
        drawn = self._drawn
        held_out, scorer = (self._held_out, self._scorer) if drawn is None else (drawn.held_out, drawn.scorer)
        fitted = fit(
            features if drawn is None else features[:, drawn.rows],
            self._label if drawn is None else self._label[drawn.rows],
            self._balanced if drawn is None else self._balanced[drawn.rows] * drawn.times[:, None],
            held_out.padded,
            moments,
            params["hidden_units"],
            HIDDEN_PENALTY * 10.0 ** params["log10_penalty"],
            self._seed,
            loss=self._task.loss,
        )

        def curves() -> dict[str, list[float]]:
            logits = np.stack([held_out.scatter(each) for each in fitted.logits])
            per_step = six_digits(scorer.probability(logits))
            return {
                "auc": scorer.epochs(per_step).tolist(),
                "loss": scorer.losses(per_step),
                "training_loss": [float(loss) for loss in fitted.losses],
            }

        return TrainedHeads(fitted.heads, curves)

    def _linear(
        self, features: Float32Array, moments: list[Moments], path: _Path, log10_penalty: float
    ) -> TrainedHeads:
        """Solve linear heads along the path of penalties, from the strongest one to that of the trial.

        The path is kept and continued by later trials with the same backbone and views. The rows of all views of an
        image together have the weight of one image, so that a penalty has the same meaning for any number of views.
        """
        penalties = LOG10_PENALTY.values[::-1]
        place = penalties.index(log10_penalty)
        if place >= len(path.heads):
            n_views = len(features)
            path.append(
                fit_path(
                    features.reshape(-1, features.shape[2]),
                    np.tile(self._label, n_views),
                    np.tile(self._balanced, (n_views, 1)),
                    *standardisation(moments),
                    [10.0**-value / n_views for value in penalties[len(path.heads) : place + 1]],
                    start=path.end,
                )
            )

        def curves() -> dict[str, list[float]]:
            for heads in path.heads[len(path.scores) : place + 1]:  # one by one, to bound the memory
                step = self._held_out.out_of_fold(heads, features[:1], self._scorer.probability)[None]
                path.scores += self._scorer.epochs(step).tolist()
                path.validation_losses += self._scorer.losses(step)
            return {
                "auc": path.scores[: place + 1],
                "loss": path.validation_losses[: place + 1],
                "training_loss": path.losses[: place + 1],
                LOG10_PENALTY.name: list(penalties[: place + 1]),
            }

        return TrainedHeads(path.heads[place], curves, {"gradient_norm": path.gradient_norms[place]})

    def _forget_paths(self) -> None:
        """Drop the paths that were used the longest time ago, until the rest fits into memory."""
        while len(self._paths) > 1 and sum(path.nbytes for path in self._paths.values()) > _PATHS_BYTES:
            self._paths.popitem(last=False)

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
            widths = tuple(self._features.get(member, view).shape[1] for member in backbone.members)
            self._moments[key] = Moments.of(features, self._weights, widths)
        return self._moments[key]


def deployed_probability(result: TrialResult, backbone: Backbone, link: str, images: FeatureCache) -> Float32Array:
    """Return P(malignant) of a trial's deployed model, the mean over fold models and views. Shape (n_images,).

    Args:
        result: Result of the trial.
        backbone: Backbone of the trial.
        link: Name of the link function of the task.
        images: Features of the images.
    """
    views = [images.get(backbone, view) for view in result.model["views"]]
    mean = np.mean([LINKS[link](result.heads.logits(view)).mean(axis=1) for view in views], axis=0)
    return np.asarray(mean, np.float32)
