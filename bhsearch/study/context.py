"""Everything that is known about a study before its first trial: data, split, backbones and space."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from bhsearch.config import Settings
from bhsearch.data.audit import Audit, audit
from bhsearch.data.dataset import Dataset
from bhsearch.data.open_data import is_phantom, make_phantom, open_settings
from bhsearch.data.splits import Split, make_split
from bhsearch.engines.optuna.pruners import check_pruner
from bhsearch.engines.registry import ENGINES, check_engine, with_sampler
from bhsearch.errors import SettingsError
from bhsearch.evaluation.plugin_metrics import EXTRA_METRICS
from bhsearch.models.augmentation.base import check_augmentations
from bhsearch.models.backbones.base import AvailableBackbones, Backbone
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.features import check_feature_backend
from bhsearch.models.resize import make_resize
from bhsearch.objectives.space import Parameter, finetune_space, frozen_space, space_digest
from bhsearch.study.development_rows import DevelopmentImages
from bhsearch.study.events import ProgressReporter
from bhsearch.study.resume.metadata import NewMetadata

FROZEN, FINETUNE = "frozen", "finetune"
FINETUNE_PRUNER = "median"  # the default of the finetune regime
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
    """Everything that is known about a study before its first trial, checked and immutable.

    Made by `build` from settings, or by `of` from parts that were checked before.

    Attributes:
        settings: The user's settings, with the sampler named.
        index: The whole data set.
        split: Split of the whole data set.
        development: The part of the data set that the search may use.
        images: The same images as columns, for predictions.
        found: Backbones that can be used, and those left out.
        backbones: The backbones that can be used, by name.
        study: Name of the study.
        regime: `frozen` or `finetune`.
        image_sizes: Sides of the images in pixels, that of `--image-size` first; a single one in the frozen regime.
        pruner: Name of the pruner. Frozen trials are never pruned, and KerasTuner has no pruner.
        audit: Findings on the data.
        note: Text that belongs beside every number, such as that the data are synthetic; may be empty.
        versions: Version of each package that a result can depend on.
    """

    settings: Settings
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

    @classmethod
    def build(cls, settings: Settings, reporter: ProgressReporter) -> StudyContext:
        """Check the settings, open the data, split them and find the backbones. Imports no slow framework.

        Raises:
            InputError: If anything that the user gave is wrong.
        """
        _check_choices(settings)
        settings = with_sampler(settings)
        index = _open_data(settings, reporter)
        split = _split(settings, index)
        regime = FINETUNE if settings.regime == FINETUNE else FROZEN
        found = _find_backbones(settings, regime, reporter)
        return cls.of(settings, index, split, found, _study_name(settings, index, split, regime), regime)

    @classmethod
    def of(
        cls, settings: Settings, index: Dataset, split: Split, found: AvailableBackbones, study: str, regime: str
    ) -> StudyContext:
        """Join parts that were checked before, and compute what follows from them."""
        return cls(
            settings=settings,
            index=index,
            split=split,
            development=index.select(split.development),
            images=DevelopmentImages.of(index, split),
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

    def space(self, backbones: Iterable[str]) -> tuple[Parameter, ...]:
        """Return the search space of the regime over some backbones, which an existing study may have more of."""
        names = tuple(backbones)
        policies = self.settings.augmentations
        if self.regime == FROZEN:
            return frozen_space(names, policies)
        return finetune_space(names, self.image_sizes, policies)

    def metadata(self) -> NewMetadata:
        """Return what the study keeps, and must agree with when it is resumed; without what its storage adds."""
        settings = self.settings
        return {
            "data": self.index.name,
            "data_fingerprint": self.index.fingerprint,
            "split_fingerprint": self.split.fingerprint,
            "regime": self.regime,
            "engine": settings.engine,
            "sampler": settings.sampler,
            "group_by": settings.group_by,
            "image_sizes": list(self.image_sizes),
            "resize": settings.resize,
            "feature_backend": settings.feature_backend,
            "seed": settings.seed,
            "space": space_digest(self.space(("",))),
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


def _find_backbones(settings: Settings, regime: str, reporter: ProgressReporter) -> AvailableBackbones:
    weights = Path(settings.weights_dir) if settings.weights_dir else None
    with reporter.step("looking for backbones"):
        return find_backbones(settings.backbones, weights, trainable=regime == FINETUNE)


def _study_name(settings: Settings, index: Dataset, split: Split, regime: str) -> str:
    part = "" if split.magnification == "all" else f"-{split.magnification.lower()}"
    return settings.study or f"{index.name}{part}-{regime}-{settings.group_by}-{settings.engine}"


def _image_sizes(settings: Settings, regime: str) -> tuple[int, ...]:
    more = settings.image_sizes if regime == FINETUNE else ()
    return tuple(dict.fromkeys((settings.image_size, *more)))


def _pruner(settings: Settings, regime: str) -> str:
    if regime == FROZEN or not ENGINES.get(settings.engine).capabilities.prunes:
        return "none"
    return settings.pruner or FINETUNE_PRUNER


def announce_synthetic(data: str | None, reporter: ProgressReporter) -> None:
    """Draw the synthetic images if they are wanted and not in the cache yet, as a step of its own."""
    if is_phantom(data):
        with reporter.step("drawing the phantom") as progress:
            make_phantom(data, progress)


def _check_choices(settings: Settings) -> None:
    """Refuse settings that contradict each other, before any work is done.

    Raises:
        SettingsError: If an option is unknown, or does not fit another one.
    """
    check_feature_backend(settings.feature_backend)
    if settings.pruner is not None:
        check_pruner(settings.pruner)
    check_engine(settings.engine, settings.sampler, settings.workers, settings.pruner, settings.storage)
    for name in settings.metrics:
        EXTRA_METRICS.get(name)
    check_augmentations(settings.augmentations, FINETUNE if settings.regime == FINETUNE else FROZEN)
    for size in (settings.image_size, *settings.image_sizes):
        make_resize(settings.resize, size)
    if settings.regime == FINETUNE and settings.resize == "tiles":
        raise SettingsError("--resize must be crop or squash with --regime finetune, but got 'tiles'.")
    if settings.init_from is not None and settings.regime != FINETUNE:
        raise SettingsError(f"--init-from goes with --regime finetune, but got {settings.regime}.")


def gpu_here() -> bool:
    """Return whether this machine has a GPU. Looks for its device, because importing a framework takes seconds."""
    return any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/kfd"))


def versions() -> dict[str, str]:
    """Return the version of each installed package that a result can depend on, and of Python."""
    found = {"python": platform.python_version()}
    for package in ("bhsearch", *_PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def images_record(index: Dataset) -> dict[str, list[Any]]:
    """Return the columns of the data set that its fingerprint depends on, so that a later difference can be named."""
    return {name: index.table[name].tolist() for name in ("path", "label", "case", "pixels_digest")}
