"""Create the objective of a study, together with its caches, and import the framework of the networks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache

from bhsearch.config import Settings
from bhsearch.data.images.changed_pixels import ChangedPixels
from bhsearch.data.images.pixel_cache import PixelCache, pixel_cache
from bhsearch.models import backend
from bhsearch.models.augmentation.shifts import SHIFTS, Shift
from bhsearch.models.features import FeatureCache, VectorCache, choose_feature_backend
from bhsearch.models.openvino import BackgroundConversion
from bhsearch.models.resize import make_resize
from bhsearch.objectives.feature_progress import FeatureProgress
from bhsearch.objectives.finetune import DevelopmentRows, FinetuneObjective
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.objectives.space import Params, frozen_space, starting_point
from bhsearch.study.context import FINETUNE, StudyContext
from bhsearch.study.development_rows import DevelopmentImages
from bhsearch.study.events import ProgressReporter
from bhsearch.study.resume.metadata import Origin
from bhsearch.study.startup import needs_framework, start_framework

Objective = FrozenObjective | FinetuneObjective


def threads_of(settings: Settings) -> int | None:
    """Return the number of CPU threads that one operation of a worker may use; None for the framework's default.

    In the frozen regime, at most half of the CPUs are used, even by a single worker: batches of heads are too small to
    profit from more threads, and the processes that convert networks and log to MLflow need CPUs, too.

    If the environment variable OMP_NUM_THREADS is set, such as by the launcher of a cluster, its value is the limit.
    """
    workers = max(settings.workers or 1, 1)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    processors = os.cpu_count() or 1
    if limit.isdecimal() and int(limit) > 0:
        return max(1, min(int(limit), processors) // workers)
    if settings.regime == FINETUNE:
        return None if workers == 1 else max(1, processors // workers)
    return max(1, processors // max(2, workers))


def make_objective(prepared: StudyContext, started_from: Origin, reporter: ProgressReporter) -> Objective:
    """Fill the pixel cache, and return the objective of the study.

    Args:
        prepared: Context of the study.
        started_from: Description of the frozen study that a finetune study was started from, as returned by
            `origin_of`. Its `heads` give the parameters of the initial head by backbone; a backbone that is not listed
            gets a linear head with default parameters. Ignored in the frozen regime.
        reporter: Receives progress events.

    Raises:
        BackboneError: If the weights of a backbone do not fit its architecture.
    """
    images = prepared.images
    if prepared.regime == FINETUNE:
        return _finetune_objective(prepared, images, started_from.get("heads", {}), reporter)
    if prepared.index.vectors:
        backend.import_when_needed(threads_of(prepared.settings))
        return frozen_objective(
            prepared, images, VectorCache(prepared.development.vectors), FeatureProgress(reporter.doing)
        )
    # Start the conversion first, because it runs in another process meanwhile.
    conversion = _conversion(prepared, prepared.settings.image_size)
    _prepare_framework(prepared.settings, reporter)
    pixels = _pixels(prepared, prepared.settings.image_size, reporter)
    feature_progress = FeatureProgress(reporter.doing)
    features = FeatureCache(pixels, prepared.settings.feature_backend, conversion, feature_progress)
    features.precisions.update(prepared.precisions)
    features.shifted = _shifts_in_score(prepared, features, reporter)
    with reporter.step("building backbones") as progress:
        for done, backbone in enumerate(prepared.found.backbones, start=1):
            features.load(backbone)
            progress(done, len(prepared.found.backbones))
    return frozen_objective(prepared, images, features, feature_progress)


def _prepare_framework(settings: Settings, reporter: ProgressReporter) -> None:
    """Import the framework if the study certainly needs it, otherwise when it is needed."""
    backend.import_when_needed(threads_of(settings))
    if needs_framework(settings):
        start_framework(reporter)


def _finetune_objective(
    prepared: StudyContext, images: DevelopmentImages, heads: dict[str, Params], reporter: ProgressReporter
) -> Objective:
    _prepare_framework(prepared.settings, reporter)
    sizes = prepared.image_sizes
    pixels = {size: _pixels(prepared, size, reporter) for size in sizes}
    space = frozen_space(tuple(prepared.backbones))

    @cache
    def frozen(size: int) -> FrozenObjective:
        conversion = _conversion(prepared, size)
        feature_progress = FeatureProgress(reporter.doing)
        features = FeatureCache(pixels[size], prepared.settings.feature_backend, conversion, feature_progress)
        return frozen_objective(prepared, images, features, feature_progress)

    return FinetuneObjective(
        pixels,
        frozen,
        lambda backbone: heads.get(backbone) or starting_point(space, backbone),
        prepared.backbones,
        DevelopmentRows(images.label, images.fold, images.group),
        prepared.settings.seed,
        backend.precision(prepared.settings.precision),
        reporter.say,
        reporter.doing,
        task=prepared.task,
    )


@cache
def resolved(regime: str, feature_backend: str, precision: str) -> dict[str, str]:
    """Return the values that `auto` resolves to on this device, by setting."""
    found = {"feature_backend": choose_feature_backend(feature_backend)}
    return found | ({"precision": backend.precision(precision)} if regime == FINETUNE else {})


def _conversion(prepared: StudyContext, size: int) -> BackgroundConversion | None:
    if prepared.settings.feature_backend == "keras":
        return None
    return BackgroundConversion([backbone for backbone in prepared.found.backbones if not backbone.from_scratch], size)


def _pixels(prepared: StudyContext, size: int, reporter: ProgressReporter) -> PixelCache:
    resize = make_resize(prepared.settings.resize, size)
    with reporter.step("resizing images") as progress:
        return pixel_cache(prepared.development, resize, progress)


def cached_features(prepared: StudyContext, reporter: ProgressReporter) -> FeatureCache:
    """Return the feature cache of a frozen study, for trials that have been run before.

    No backbone is built or converted before features are missing.
    """
    if prepared.index.vectors:
        backend.import_when_needed(threads_of(prepared.settings))
        return VectorCache(prepared.development.vectors)
    _prepare_framework(prepared.settings, reporter)
    pixels = _pixels(prepared, prepared.settings.image_size, reporter)
    features = FeatureCache(pixels, prepared.settings.feature_backend, progress=FeatureProgress(reporter.doing))
    features.precisions.update(prepared.precisions)
    features.shifted = _shifts_in_score(prepared, features, reporter)
    return features


def _shifts_in_score(
    prepared: StudyContext, features: FeatureCache, reporter: ProgressReporter
) -> tuple[FeatureCache, ...]:
    """Return the features under each shift that counts in the score, in the order of `SHIFTS`; empty if none does."""
    counted = SHIFTS.values() if prepared.settings.score_weight_shift else ()
    return tuple(shifted_features(prepared, shift, features, reporter) for shift in counted)


def shifted_features(
    prepared: StudyContext, shift: Shift, features: FeatureCache, reporter: ProgressReporter
) -> FeatureCache:
    """Return the feature cache of shifted development images.

    Args:
        prepared: Context of the study, in the frozen regime.
        shift: Shift of the images at their own size, before they are resized.
        features: Features of the unchanged images.
        reporter: Receives progress messages.
    """
    resize = make_resize(prepared.settings.resize, prepared.settings.image_size)
    pixels = ChangedPixels(prepared.development, resize, shift.key, shift.apply, shift.by_case)
    progress = FeatureProgress(lambda what: reporter.doing(f"{shift.title}, {what}"))
    return features.of_changed(pixels, progress)


def frozen_objective(
    prepared: StudyContext,
    images: DevelopmentImages,
    features: FeatureCache,
    feature_progress: FeatureProgress | None = None,
) -> FrozenObjective:
    """Return the frozen objective for images and their features.

    Args:
        prepared: Context of the study.
        images: Development images of the study, or some of them.
        features: Features of the same images, with those under the shifts that count in the score.
        feature_progress: Receives the activity of a trial; None for no progress messages.
    """
    return FrozenObjective(
        features,
        prepared.backbones,
        images.label,
        images.fold,
        images.group,
        prepared.settings.seed,
        feature_progress,
        task=prepared.task,
        shift_weight=images.shift_weight,
    )


def best_heads(trials: Sequence[tuple[float, Params]]) -> dict[str, Params]:
    """Return the parameters of the best trial of each backbone.

    Args:
        trials: Score and parameters of complete trials of a frozen study.
    """
    found: dict[str, tuple[float, Params]] = {}
    for score, params in trials:
        name = params["backbone"]
        if name not in found or score > found[name][0]:
            found[name] = (score, params)
    return {name: params for name, (_, params) in found.items()}
