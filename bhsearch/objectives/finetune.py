"""The objective of the finetune regime, which fine-tunes one network per fold, starting from a frozen head per fold."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import psutil

from bhsearch.data.arrays import Float32Array
from bhsearch.data.images.pixel_cache import PixelCache
from bhsearch.data.splits import training_mask, training_weights, validation_mask
from bhsearch.errors import RunError
from bhsearch.evaluation.predictions import six_digits
from bhsearch.models import backend
from bhsearch.models.augmentation import device_transforms
from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.inference_model import arrays_of
from bhsearch.models.training.device_images import DevicePixels
from bhsearch.models.training.finetune import EVALS_PER_FOLD, Evaluation, FinetuneParams, FoldTask, predict, train_fold
from bhsearch.models.training.step_cache import TrainerCache
from bhsearch.models.training.train_step import CompiledTrainer, ModelWeights, TrainerSpec
from bhsearch.objectives.base import (
    MODEL_MB,
    MS_PER_IMAGE,
    IntermediateValue,
    Pruned,
    ReportCallback,
    TrialResult,
)
from bhsearch.objectives.costs import FeatureCosts
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.objectives.scoring import OutOfFoldScorer
from bhsearch.objectives.space import MICRO_BATCHES, Parameter, Params
from bhsearch.tasks import Task

N_VIEWS = 4  # number of dihedral views for test-time augmentation
N_EXAMPLES = 3  # number of images in the figure of augmentation policies
_ON_DEVICE_BYTES = 4 << 30  # maximum total size of the images that are kept on the device


@dataclass(frozen=True, eq=False)
class DevelopmentRows:
    """Labels, folds and groups of the development images.

    Attributes:
        label: Class of each image, 0 or 1. Shape (n_images,).
        fold: Validation fold of each image in each repeat. Shape (n_repeats, n_images).
        group: Group number of each image. Shape (n_images,).
    """

    label: npt.NDArray[np.int8]
    fold: npt.NDArray[np.int8]
    group: npt.NDArray[np.int64]

    def repeat_folds(self) -> list[tuple[int, int]]:
        """Return all pairs of repeat and fold, in the order of training."""
        return [(repeat, fold) for repeat in range(len(self.fold)) for fold in range(int(self.fold.max()) + 1)]


class FinetuneObjective:
    """The objective of the finetune regime: a callable that scores a parameter set.

    Args:
        pixels: Pixel cache by image size.
        frozen: Returns the frozen objective of an image size, which trains the initial heads.
        heads: Returns the frozen parameter set for the initial heads of a backbone, given its name.
        backbones: Backbones of the space, by name.
        rows: Labels, folds and groups of the development images.
        seed: Seed of all random numbers in training, which is the same for all trials.
        precision: Name of the precision in Keras, such as `float32`.
        say: Called with messages about a trial for the user.
        tell: Called with progress messages, such as `fold 2 of 5, epoch 4 of 6`.
        task: Task that names the loss, the link function and the score.
    """

    def __init__(
        self,
        pixels: Mapping[int, PixelCache],
        frozen: Callable[[int], FrozenObjective],
        heads: Callable[[str], Params],
        backbones: Mapping[str, Backbone],
        rows: DevelopmentRows,
        seed: int,
        precision: str,
        say: Callable[[str], None],
        tell: Callable[[str], None] = lambda what: None,  # noqa: ARG005
        *,
        task: Task,
    ) -> None:
        self._pixels, self._frozen, self._heads_of, self._backbones = pixels, frozen, heads, backbones
        self._rows, self._seed, self._precision, self._say = rows, seed, precision, say
        self._tell, self._loss = tell, task.loss
        self.scorer = OutOfFoldScorer(rows.label, rows.fold, rows.group, task)
        self._pool = TrainerCache()
        self._device: tuple[int, DevicePixels] | None = None
        self._started: dict[tuple[str, int], tuple[list[Float32Array], int] | None] = {}
        self._n_training_longest = max(int(training_mask(rows.fold, r, k).sum()) for r, k in rows.repeat_folds())

    def costs(self, space: Sequence[Parameter]) -> FeatureCosts:  # noqa: ARG002  # as in the frozen regime
        """Return no costs, because trials of this regime share no features."""
        return FeatureCosts()

    def examples(self) -> dict[str, npt.NDArray[np.uint8]]:
        """Return example images by augmentation policy, at three strengths, for one image of each of a few groups."""
        pixels = next(iter(self._pixels.values()))
        _, firsts = np.unique(self._rows.group, return_index=True)
        some = pixels.rows(firsts[np.linspace(0, len(firsts) - 1, N_EXAMPLES).astype(int)])[:, 0]
        shown = device_transforms.examples(list(some), np.random.default_rng(self._seed))
        return {policy: np.stack(row) for policy, row in shown}

    def __call__(self, params: Params, on_report: ReportCallback) -> TrialResult:
        """Train the networks of all folds with one parameter set and score their out-of-fold predictions.

        If the trial runs out of memory, it is repeated once with every batch split into `MICRO_BATCHES` parts.

        Args:
            params: Parameters of the finetune space.
            on_report: Called with intermediate values, `EVALS_PER_FOLD` per fold.

        Raises:
            RunError: If training produces NaN or infinite values, or runs out of memory even with split batches.
            Pruned: If `on_report` raises `Pruned`.
        """
        spec = self._spec(params)
        try:
            return self._trial(params, spec, on_report)
        except Exception as error:
            if not backend.is_out_of_memory(error):
                raise
        self._pool.forget(spec)
        self._say(f"Out of memory with batches of {spec.batch}: retrying in {MICRO_BATCHES} parts each.")
        spec = replace(spec, micro_batches=MICRO_BATCHES)
        try:
            return self._trial(params, spec, on_report)
        except Exception as error:
            if not backend.is_out_of_memory(error):
                raise
            self._pool.forget(spec)
            raise RunError(
                f"The GPU has too little memory for {spec.backbone.name} at {spec.size} px with a batch of "
                f"{spec.batch}, even if the batch is processed in {MICRO_BATCHES} parts. Use a smaller --image-size, "
                "or leave the backbone out."
            ) from error

    def _spec(self, params: Params) -> TrainerSpec:
        backbone = self._backbones[params["backbone"]]
        start = self._start(backbone, params["image_size"])
        hidden = start[1] if start is not None else 0
        depth = "all" if backbone.from_scratch else params["depth"]
        return TrainerSpec(
            backbone, params["image_size"], params["batch"], depth, hidden, self._precision, loss=self._loss
        )

    def _trial(self, params: Params, spec: TrainerSpec, on_report: ReportCallback) -> TrialResult:
        started = time.perf_counter()
        chosen = finetune_params(params)
        n_views = N_VIEWS if params["tta"] else 1
        probability = np.full(self._rows.fold.shape, 0.5, np.float32)
        scores: list[float] = []
        curves = _Curves()
        members = []
        milliseconds = float("inf")
        self._tell(f"building {spec.backbone.name}")
        with self._pool.program(spec) as program:
            pixels = self._device_pixels(spec.size)
            for fold_model, (repeat, fold) in enumerate(self._rows.repeat_folds()):
                task = self._task(repeat, fold, chosen)
                here = f"fold {fold_model + 1} of {len(self._rows.repeat_folds())}"
                self._tell(here)
                fold_of = _Fold(self, fold_model, repeat, task, on_report, curves, scores)
                seed = (self._seed, fold_model)
                try:
                    member = train_fold(
                        program,
                        pixels,
                        task,
                        self._member(program, fold_model, seed),
                        chosen,
                        seed,
                        fold_of.on_evaluation,
                        partial(self._tell_epoch, here, chosen.epochs),
                    )
                    state = program.inference_state(program.initial_state(member))
                    began = time.perf_counter()
                    by_view = predict(program, pixels, state, task.held_out, n_views)
                    # Use the time of the fastest fold, because the time of the first fold includes compilation.
                    passed = 1000 * (time.perf_counter() - began) / len(task.held_out)
                    milliseconds = min(milliseconds, passed)
                    probability[repeat, task.held_out] = six_digits(self.scorer.probability(by_view).mean(axis=0))
                    scores.append(self.scorer.fold_score(repeat, task.held_out, probability[repeat, task.held_out]))
                    report = IntermediateValue(
                        (fold_model + 1) * EVALS_PER_FOLD - 1, float(np.mean(scores)), scores[-1]
                    )
                    is_last = fold_model == len(self._rows.repeat_folds()) - 1
                    with suppress(Pruned) if is_last else nullcontext():  # all folds are done: keep the result
                        on_report(report)
                except Pruned as pruned:
                    pruned.curves = curves.means()
                    pruned.seconds = time.perf_counter() - started
                    raise
                members.append(member)
        weights = arrays_of(members)
        n_images = len(self._rows.repeat_folds()) * chosen.epochs * task.steps * spec.batch
        return TrialResult(
            float(np.mean(scores)),
            probability,
            curves.means(),
            {
                "kind": "networks",
                "views": list(views_of("dihedral", n_views) if n_views > 1 else views_of("none", 1)),
                "image_size": spec.size,
                "n_members": len(members),
                "hidden_units": spec.hidden_units,
            },
            weights,
            time.perf_counter() - started,
            {
                "trained_images": n_images,
                "peak_memory_mb": _peak_mb(),
                MS_PER_IMAGE: len(members) * milliseconds,  # the deployed model averages the networks of all folds
                MODEL_MB: sum(array.nbytes for array in weights.values()) / 1e6,
            },
        )

    def _tell_epoch(self, fold: str, epochs: int, epoch: int) -> None:
        self._tell(f"{fold}, epoch {epoch} of {epochs}")

    def _task(self, repeat: int, fold: int, params: FinetuneParams) -> FoldTask:
        inside = training_mask(self._rows.fold, repeat, fold)
        weight = training_weights(self._rows.group, inside)
        classes = [weight * (self._rows.label == value) for value in (0, 1)]
        balanced = classes[0] / classes[0].sum() + classes[1] / classes[1].sum()  # half of the weight for each class
        smooth = params.label_smoothing
        return FoldTask(
            np.flatnonzero(inside),
            np.flatnonzero(validation_mask(self._rows.fold, repeat, fold)),
            (self._rows.label * (1 - smooth) + smooth / 2).astype(np.float32),
            (balanced * inside.sum() / 2).astype(np.float32),
            -(-self._n_training_longest // params.batch),
        )

    def _member(self, program: CompiledTrainer, fold_model: int, seed: tuple[int, ...]) -> ModelWeights:
        """Return the initial weights of a fold: the backbone with the fold's frozen head.

        A network that is trained from scratch gets random weights and a head of zeros.
        """
        start = self._start(program.spec.backbone, program.spec.size)
        weights = program.initial_weights(np.random.default_rng(seed))
        if start is None:
            head = [np.zeros((program.n_features, 1), np.float32), np.zeros(1, np.float32)]
            return ModelWeights(weights, [*head, np.ones(1, np.float32), np.zeros((), np.float32)])
        kernel, bias, output_weights, output_bias = start[0]
        return ModelWeights(
            weights, [kernel[:, fold_model], bias[fold_model], output_weights[fold_model], output_bias[fold_model]]
        )

    def _start(self, backbone: Backbone, size: int) -> tuple[list[Float32Array], int] | None:
        """Return the frozen heads of all folds and their number of hidden units; None for training from scratch."""
        key = (backbone.name, size)
        if key not in self._started:
            start = None
            if not backbone.from_scratch:
                heads = self._frozen(size)(self._heads_of(backbone.name)).heads
                hidden = 0 if heads.linear else heads.kernel.shape[2]
                start = [heads.kernel, heads.bias, heads.output_weights, heads.output_bias], hidden
            self._started[key] = start  # only stored after success, so that the next trial retries failed heads
        return self._started[key]

    def _device_pixels(self, size: int) -> DevicePixels:
        """Return the images of one size on the device; images of another size are removed from the device first."""
        if self._device is None or self._device[0] != size:
            self._device = None
            self._device = (size, DevicePixels(self._pixels[size], _ON_DEVICE_BYTES))
        return self._device[1]


def finetune_params(params: Params) -> FinetuneParams:
    """Return the part of a parameter set that the training of networks needs."""
    return FinetuneParams(**{field.name: params[field.name] for field in fields(FinetuneParams)})


class _Curves:
    """The learning curves of a trial, with the values of every evaluation collected over the folds."""

    def __init__(self) -> None:
        self._values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, evaluation: Evaluation, auc: float, loss: float) -> None:
        for name, value in (("auc", auc), ("loss", loss), ("training_loss", evaluation.training_loss)):
            self._values[name][evaluation.share].append(value)

    def means(self) -> dict[str, list[float]]:
        """Return the mean over the folds for each evaluation, by name of the curve."""
        return {name: [float(np.mean(by[share])) for share in sorted(by)] for name, by in self._values.items()}


class _Fold:
    """The callbacks for the evaluations of the fold in training."""

    def __init__(
        self,
        objective: FinetuneObjective,
        fold_model: int,
        repeat: int,
        task: FoldTask,
        on_report: ReportCallback,
        curves: _Curves,
        scores: list[float],
    ) -> None:
        self._objective, self._fold_model, self._repeat, self._task = objective, fold_model, repeat, task
        self._on_report, self._curves, self._before = on_report, curves, list(scores)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        scorer, rows = self._objective.scorer, self._task.held_out
        auc = scorer.fold_score(self._repeat, rows, scorer.probability(evaluation.logits))
        self._curves.add(evaluation, auc, scorer.fold_loss(self._repeat, rows, evaluation.logits))
        if evaluation.share < EVALS_PER_FOLD:  # the last evaluation is reported by `_trial`, with the score of the fold
            step = self._fold_model * EVALS_PER_FOLD + evaluation.share - 1
            self._on_report(IntermediateValue(step, float(np.mean([*self._before, auc])), None))


def _peak_mb() -> float:
    """Return the peak GPU memory in megabytes; without a GPU, the current resident memory of this process."""
    peak = backend.peak_memory_bytes()
    return (psutil.Process().memory_info().rss if peak is None else peak) / 1e6
