"""The context of a study, which is fixed before the first trial: settings, data, split, backbones and search space."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from bhsearch.config import Settings, encoder_names
from bhsearch.data.audit import Audit, audit
from bhsearch.data.dataset import Dataset
from bhsearch.data.open_data import check_layout, is_phantom, make_phantom, open_settings
from bhsearch.data.splits import Split, check_split_options, make_split
from bhsearch.engines.registry import ENGINES, check_engine, with_sampler
from bhsearch.errors import BackboneError, SettingsError
from bhsearch.evaluation.plugin_metrics import EXTRA_METRICS
from bhsearch.models.augmentation.base import check_augmentations
from bhsearch.models.backbones.base import AvailableBackbones, Backbone
from bhsearch.models.backbones.registry import find_backbones, name_of
from bhsearch.models.resize import LEAST_SIZE, MOST_SIZE, make_resize
from bhsearch.objectives.space import (
    Parameter,
    check_batch_sizes,
    default_batch_sizes,
    finetune_space,
    frozen_space,
    space_digest,
)
from bhsearch.study.development_rows import DevelopmentImages
from bhsearch.study.events import ProgressReporter
from bhsearch.study.resume.metadata import NewMetadata
from bhsearch.tasks import Task, task_of, task_record

FROZEN, FINETUNE = "frozen", "finetune"
FINETUNE_PRUNER = "median"  # default pruner of the finetune regime
SYNTHETIC = "Synthetic data (phantom)"
_PACKAGES = (
    "keras",
    "tensorflow",
    "jax",
    "openvino",
    "optuna",
    "keras-tuner",
    "mlflow",
    "scikit-learn",
    "numpy",
    "pillow",
    "tifffile",
    "imagecodecs",
)


@dataclass(frozen=True, eq=False)
class StudyContext:
    """The validated, immutable inputs of a study, as known before its first trial.

    `build` creates a context from settings; `of` creates one from validated parts.

    Attributes:
        settings: The user's settings, with the default sampler and, for fine-tuning, the default batch sizes filled in.
        task: Task of the study.
        index: The whole data set.
        split: Split of the whole data set into development and sealed test images.
        development: The development images, which are the only images that the search uses.
        images: The development images as columns, from which `Predictions` are built.
        found: Available backbones, and unavailable ones with the reason.
        backbones: The available backbones, by name; after the search of a study with `--combine` also the joint ones.
        study: Name of the study.
        regime: `frozen` or `finetune`.
        image_sizes: Side lengths of the square images in pixels, the value of `--image-size` first; only one length in
            the frozen regime.
        pruner: Name of the pruner; `none` in the frozen regime and with KerasTuner, which do not prune.
        audit: Errors and duplicates found in the data.
        note: Text to show next to every score, such as that the data are synthetic; may be empty.
        versions: Versions of the packages that can influence a result.
        precisions: Precision of the features by backbone, if a study with this context has stored them; f32 for others.
    """

    settings: Settings
    task: Task
    index: Dataset
    split: Split
    development: Dataset
    images: DevelopmentImages
    found: AvailableBackbones
    backbones: Mapping[str, Backbone]
    study: str
    regime: str
    image_sizes: tuple[int, ...]
    pruner: str
    audit: Audit
    note: str
    versions: Mapping[str, str]
    precisions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def build(cls, settings: Settings, reporter: ProgressReporter) -> StudyContext:
        """Return the context for some settings: check them, open and split the data, and find the backbones.

        The method imports neither Keras nor its backend, which would take seconds.

        Raises:
            InputError: If a setting or an input file is invalid.
        """
        check_choices(settings)
        settings = with_sampler(settings)
        index = _open_data(settings, reporter)
        split = _split(settings, index)
        regime = FINETUNE if settings.regime == FINETUNE else FROZEN
        found = _find_backbones(settings, regime, reporter)
        _check_sizes(found.backbones, _image_sizes(settings, regime))
        return cls.of(settings, index, split, found, _study_name(settings, index, split, regime), regime)

    @classmethod
    def of(
        cls, settings: Settings, index: Dataset, split: Split, found: AvailableBackbones, study: str, regime: str
    ) -> StudyContext:
        """Return the context for validated parts, and compute the remaining attributes from these parts."""
        return cls(
            settings=_with_batch_sizes(settings, regime),
            task=task_of(index),
            index=index,
            split=split,
            development=index.select(split.development),
            images=DevelopmentImages.of(index, split, settings.score_weight_shift),
            found=found,
            backbones={backbone.name: backbone for backbone in found.backbones},
            study=study,
            regime=regime,
            image_sizes=_image_sizes(settings, regime),
            pruner=_pruner(settings, regime),
            audit=audit(index),
            note=SYNTHETIC if index.synthetic else "",
            versions=versions(),
        )

    @property
    def named_backbones(self) -> tuple[str, ...]:
        """The available backbones as the user named them, such as by the path of a file."""
        given = {name_of(name): name for name in encoder_names(self.settings)}
        return tuple(given.get(name, name) for name in self.backbones)

    def space(self, backbones: Iterable[str]) -> tuple[Parameter, ...]:
        """Return the search space of the regime over the given backbones, and the joint ones of `--combine`.

        Args:
            backbones: Names of the backbones; those of an existing study may differ from the available ones.
        """
        names = tuple(backbones)
        policies = self.settings.augmentations
        if self.regime == FROZEN:
            settings = self.settings
            return frozen_space(
                names, policies, heads=settings.heads, has_views=not self.index.vectors, combine=settings.combine
            )
        return finetune_space(names, self.image_sizes, policies, self.settings.batch_sizes)

    def metadata(self) -> NewMetadata:
        """Return the metadata to store with a new study, against which a resumed study is checked.

        `started_from` and `warm` are empty; they are filled in when the storage of the study is opened.
        """
        settings = self.settings
        return {
            "data": self.index.name,
            "task": task_record(self.task),
            "data_fingerprint": self.index.fingerprint,
            "split_fingerprint": self.split.fingerprint,
            "regime": self.regime,
            "engine": settings.engine,
            "sampler": settings.sampler,
            "group_by": settings.group_by,
            "image_sizes": list(self.image_sizes),
            "batch_sizes": list(settings.batch_sizes) if self.regime == FINETUNE else [],
            "resize": settings.resize,
            "feature_backend": settings.feature_backend,
            "feature_precision": settings.feature_precision,
            "seed": settings.seed,
            "space": space_digest(replace(self, settings=replace(settings, combine=0)).space(("",))),
            "combine": settings.combine,
            "score_weight_shift": settings.score_weight_shift,
            "features_key": settings.features_key,
            "promotable": self.split.promotable,
            "started_from": {},
            "warm": {},
            "versions": dict(self.versions),
        }


def _open_data(settings: Settings, reporter: ProgressReporter) -> Dataset:
    announce_synthetic(settings.data, reporter)
    with reporter.step("reading images") as progress:
        return open_settings(settings, progress=progress)


def _split(settings: Settings, index: Dataset) -> Split:
    return make_split(
        index,
        test_fraction=settings.test_fraction,
        n_folds=settings.folds,
        n_repeats=settings.repeats,
        group_by=settings.group_by,
        magnification=settings.magnification,
        ignore_predefined_split=settings.ignore_predefined_split,
    )


def _check_sizes(backbones: Sequence[Backbone], sizes: Sequence[int]) -> None:
    """Check the image sizes for all backbones.

    Raises:
        BackboneError: If a backbone cannot take a size, with the nearest size that all of them can take.
    """
    for backbone in backbones:
        for size in sizes:
            try:
                backbone.check_size(size)
            except BackboneError as error:
                near = sorted(range(LEAST_SIZE, MOST_SIZE + 1), key=lambda other: abs(other - size))
                fit = next((other for other in near if _all_fit(backbones, other)), None)
                if len(backbones) == 1 or fit is None:
                    raise
                raise BackboneError(f"{error} All backbones of this study can use {fit} pixels.") from error


def _all_fit(backbones: Sequence[Backbone], size: int) -> bool:
    try:
        for backbone in backbones:
            backbone.check_size(size)
    except BackboneError:
        return False
    return True


def _find_backbones(settings: Settings, regime: str, reporter: ProgressReporter) -> AvailableBackbones:
    weights = Path(settings.weights_dir) if settings.weights_dir else None
    with reporter.step("looking for backbones"):
        found = find_backbones(encoder_names(settings), weights, trainable=regime == FINETUNE)
    files = [backbone.name for backbone in found.backbones if not backbone.is_keras]
    if files and settings.augmentations:
        raise SettingsError(
            f"--augmentations {','.join(settings.augmentations)} cannot be used with {', '.join(files)}: views of "
            "other packages are Keras operations, which an ONNX or OpenVINO model cannot contain. Remove one of them."
        )
    return found


def _study_name(settings: Settings, index: Dataset, split: Split, regime: str) -> str:
    part = "" if split.magnification == "all" else f"-{split.magnification.lower()}"
    return settings.study or f"{index.name}{part}-{regime}-{settings.group_by}-{settings.engine}"


def _image_sizes(settings: Settings, regime: str) -> tuple[int, ...]:
    more = settings.image_sizes if regime == FINETUNE else ()
    return tuple(dict.fromkeys((settings.image_size, *more)))


def _with_batch_sizes(settings: Settings, regime: str) -> Settings:
    """Return the settings, with the default batch sizes of fine-tuning for the device filled in if they name none.

    The sizes are stored with the study, so that workers on other machines search the same space.
    """
    if settings.batch_sizes or regime != FINETUNE:
        return settings
    return replace(settings, batch_sizes=default_batch_sizes())


def _pruner(settings: Settings, regime: str) -> str:
    if regime == FROZEN or not ENGINES.get(settings.engine).capabilities.prunes:
        return "none"
    return settings.pruner or FINETUNE_PRUNER


def announce_synthetic(data: str | None, reporter: ProgressReporter) -> None:
    """Draw the synthetic images as a separate progress step, if `data` asks for them and they are not cached."""
    if is_phantom(data):
        with reporter.step("drawing the phantom") as progress:
            make_phantom(data, progress)


def check_choices(settings: Settings) -> None:
    """Check that the settings are known and consistent with each other, without reading data.

    Raises:
        SettingsError: If the value of an option is unknown or contradicts another option.
    """
    check_engine(settings.engine, settings.sampler, settings.workers, settings.pruner, settings.storage)
    check_layout(settings.layout)
    if settings.regime != FINETUNE and settings.sampler in ENGINES.get(settings.engine).capabilities.paced:
        raise SettingsError(
            f"--sampler {settings.sampler} requires --regime finetune, but got --regime {settings.regime}: it sets the "
            "number of epochs, which the heads of the frozen regime do not have."
        )
    if settings.regime == FINETUNE and settings.heads != Settings.heads:
        raise SettingsError(f"--heads {settings.heads} requires --regime frozen or auto, but got --regime finetune.")
    for name in settings.metrics:
        EXTRA_METRICS.get(name)
    check_augmentations(settings.augmentations, FINETUNE if settings.regime == FINETUNE else FROZEN)
    check_split_options(settings.test_fraction, settings.folds, settings.repeats, settings.group_by)
    for size in (settings.image_size, *settings.image_sizes):
        make_resize(settings.resize, size)
    check_batch_sizes(settings.batch_sizes)
    if settings.regime == FINETUNE and settings.resize == "tiles":
        raise SettingsError("--resize must be crop or squash with --regime finetune, but got tiles.")
    if settings.init_from is not None and settings.regime != FINETUNE:
        raise SettingsError(f"--init-from requires --regime finetune, but got --regime {settings.regime}.")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that can influence a result."""
    found = {"python": platform.python_version()}
    for package in ("bhsearch", *_PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def images_record(index: Dataset) -> dict[str, list[Any]]:
    """Return the columns that determine the data set's fingerprint, so that a later mismatch can be explained."""
    return {name: index.table[name].tolist() for name in ("path", "label", "case", "pixels_digest")}
