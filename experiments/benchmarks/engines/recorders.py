"""What scores a point for the table: the objectives of a study, and the cases put aside beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from bhsearch.data.arrays import Float32Array
from bhsearch.data.images.pixel_cache import pixel_cache
from bhsearch.errors import RunError
from bhsearch.evaluation.metrics import fold_scores
from bhsearch.models import backend
from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.models.augmentation.policies import VIEW_POLICIES
from bhsearch.models.features import FeatureCache
from bhsearch.models.inference_model import members_of
from bhsearch.models.openvino import BackgroundConversion
from bhsearch.models.resize import make_resize
from bhsearch.models.training.device_images import DevicePixels
from bhsearch.models.training.finetune import predict
from bhsearch.models.training.heads import Moments
from bhsearch.models.training.step_cache import TrainerCache
from bhsearch.models.training.train_step import TrainerSpec
from bhsearch.objectives.base import IntermediateValue, TrialResult
from bhsearch.objectives.finetune import N_VIEWS
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.objectives.scoring import sigmoid
from bhsearch.objectives.space import LOG10_PENALTY, Params
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.objective_factory import make_objective
from bhsearch.tasks.binary import BinaryTask
from experiments.benchmarks.engines.points import Point
from experiments.benchmarks.engines.table import Entry
from experiments.benchmarks.engines.thirds import HeldOut

_MOST_VIEWS = 4
_BATCH = 16
_ON_DEVICE_BYTES = 1 << 30


class Recorder(Protocol):
    """Scores points of one space."""

    def entry(self, point: Point) -> Entry:
        """Train and score one point, whole."""


class _SharedHeads(FrozenObjective):
    """An objective that trains the same heads with a hidden layer once for two successive trials.

    The heads of trials that differ only in `tta` are the same.

    Attributes:
        saved_seconds: Processor seconds of the training that the last trial was spared.
    """

    _kept: tuple[Params, Any, float] = {}, None, 0.0
    saved_seconds = 0.0

    def _hidden(self, features: Float32Array, moments: list[Moments], params: Params) -> Any:
        wanted = params | {"tta": False}
        self.saved_seconds = self._kept[2] if self._kept[0] == wanted else 0.0
        if self._kept[0] != wanted:
            started = time.process_time()
            trained = super()._hidden(features, moments, params)
            self._kept = wanted, trained, time.process_time() - started
        return self._kept[1]


class FrozenRecorder:
    """Scores points of the frozen space.

    Args:
        prepared: Without the cases put aside.
        held_out: Those.
    """

    def __init__(self, prepared: StudyContext, held_out: HeldOut) -> None:
        size, backbones = prepared.settings.image_size, prepared.backbones
        resize = make_resize(prepared.settings.resize, size)
        conversion = BackgroundConversion(list(backbones.values()), size)
        backend.import_backend(threads=1)
        self._features, self._outside = (
            FeatureCache(pixel_cache(index, resize), "auto", conversion)
            for index in (prepared.development, held_out.index)
        )
        self._held_out, self._backbones, self._images = held_out, backbones, prepared.images
        rows = self._images
        self._objective = _SharedHeads(
            self._features,
            backbones,
            rows.label,
            rows.fold,
            rows.group,
            prepared.settings.seed,
            task=BinaryTask(),
        )

    def features(self) -> Iterator[tuple[str, str, float]]:
        """Compute what trials will ask for: backbone, view, and the processor seconds of its features."""
        views = dict.fromkeys(view for policy in VIEW_POLICIES for view in views_of(policy, _MOST_VIEWS))
        for name, backbone in self._backbones.items():
            self._features.load(backbone)
            for view in views:
                started = time.process_time()
                self._features.get(backbone, view)
                yield name, view, time.process_time() - started
                self._outside.get(backbone, view)

    def entry(self, point: Point) -> Entry:
        """Train and score one point, whole."""
        params = point.params
        for view in views_of(params["policy"], params["views"]):  # read before the clock starts
            self._features.get(self._backbones[params["backbone"]], view)
        if params["hidden_units"]:
            outcome, entry = _timed(point, lambda: self._objective(params))
            entry = replace(entry, seconds=round(entry.seconds + self._objective.saved_seconds, 3))
        else:
            outcome, entry = self._linear(point)
        if outcome is None:
            return entry
        folds = fold_scores(self._images.predictions(outcome.probability))
        return replace(
            entry,
            score=round(outcome.score, 6),
            held_out=round(self._outside_score(point, outcome), 6),
            folds=[round(float(fold), 5) for fold in folds.ravel()],
        )

    def _linear(self, point: Point) -> tuple[TrialResult | None, Entry]:
        """Time a linear head twice: with the step of its path from the next stronger penalty, and without."""
        stronger = point.params | {LOG10_PENALTY.name: point.params[LOG10_PENALTY.name] + LOG10_PENALTY.step}
        if LOG10_PENALTY.holds(stronger[LOG10_PENALTY.name]):
            _timed(point, lambda: self._objective(stronger))
        _, first = _timed(point, lambda: self._objective(point.params))
        outcome, entry = _timed(point, lambda: self._objective(point.params))
        return outcome, replace(entry, step=round(max(first.seconds - entry.seconds, 0.0), 3))

    def _outside_score(self, point: Point, outcome: TrialResult) -> float:
        backbone = self._backbones[point.params["backbone"]]
        by_view = [
            sigmoid(outcome.heads.logits(self._outside.get(backbone, view))).mean(axis=1)
            for view in outcome.model["views"]
        ]
        return self._held_out.auc(np.mean(by_view, axis=0))


class FinetuneRecorder:
    """Scores points of the finetune space.

    Args:
        prepared: Without the cases put aside.
        held_out: Those.
    """

    def __init__(self, prepared: StudyContext, held_out: HeldOut) -> None:
        backend.import_backend(threads=1)
        self._prepared, self._held_out = prepared, held_out
        self._objective = make_objective(prepared, {}, ProgressReporter())
        size = prepared.settings.image_size
        cache = pixel_cache(held_out.index, make_resize(prepared.settings.resize, size))
        self._pixels, self._pool = DevicePixels(cache, _ON_DEVICE_BYTES), TrainerCache()

    def features(self) -> Iterator[tuple[str, str, float]]:
        """Nothing: the network itself is trained."""
        return iter(())

    def entry(self, point: Point) -> Entry:
        """Train and score one point, whole."""
        heard: list[IntermediateValue] = []
        outcome, entry = _timed(point, lambda: self._objective(point.params, heard.append))
        if outcome is None:
            return entry
        return replace(
            entry,
            score=round(outcome.score, 6),
            held_out=round(self._outside_score(point, outcome), 6),
            folds=[round(report.fold, 5) for report in heard if report.fold is not None],
            reports=[(r.step, round(r.mean, 5), None if r.fold is None else round(r.fold, 5)) for r in heard],
        )

    def _outside_score(self, point: Point, outcome: TrialResult) -> float:
        backbone = self._prepared.backbones[point.params["backbone"]]
        model, rows = outcome.model, np.arange(len(self._held_out.groups))
        shape = TrainerSpec(
            backbone, model["image_size"], _BATCH, "all", model["hidden_units"], "float32", loss=BinaryTask.loss
        )
        with self._pool.program(shape) as program:
            by_member = []
            for member in members_of(outcome.arrays, model["n_members"]):
                state = program.inference_state(program.initial_state(member))
                n_views = N_VIEWS if point.params["tta"] else 1
                by_member.append(sigmoid(predict(program, self._pixels, state, rows, n_views)).mean(axis=0))
        return self._held_out.auc(np.mean(by_member, axis=0))


def _timed(point: Point, trial: Callable[[], TrialResult]) -> tuple[TrialResult | None, Entry]:
    """Run a trial. Returns what it gave, None if it failed, and its entry with the seconds and nothing else yet."""
    started = time.process_time()
    outcome = None
    with suppress(RunError):
        outcome = trial()
    return outcome, Entry(point.number, point.params, None, None, [], round(time.process_time() - started, 3))
