"""Everything that is decided before the first trial: data, split, backbones, space, and whether they fit the study."""

from __future__ import annotations

import ast
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.config import Settings, model_limit
from bhsearch.data.audit import Audit, audit
from bhsearch.data.dataset import CLASS_NAMES, Dataset
from bhsearch.data.datasets import is_phantom, make_phantom, open_settings
from bhsearch.data.images.files import describe_left_out
from bhsearch.data.splits import Split, make_split
from bhsearch.engines.optuna.pruners import check_pruner
from bhsearch.engines.registry import ENGINES, check_engine, with_sampler
from bhsearch.errors import SettingsError, StudyError
from bhsearch.evaluation.extra_metrics import EXTRA_METRICS
from bhsearch.evaluation.predictions import Predictions
from bhsearch.models.augmentation.base import check_augmentations
from bhsearch.models.backbones.base import AvailableBackbones, Backbone
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.features import check_feature_backend
from bhsearch.models.resize import make_resize
from bhsearch.objectives.space import Parameter, digest_of_rows, finetune_space, frozen_space, space_digest
from bhsearch.study.events import ProgressReporter, StudyPlan
from bhsearch.study.gate_size import gate_size_warnings

FROZEN, FINETUNE = "frozen", "finetune"
FINETUNE_PRUNER = "median"  # where none is named
_MOST_NAMES = 3  # of backbones left out for one reason; more are counted
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
# A study goes on only with what it was made with: these are compared, and a difference is named.
_MUST_AGREE = {
    "data_fingerprint": "other images, labels or cases",
    "split_fingerprint": "another split (--folds, --repeats, --test-fraction, --group-by, --magnification)",
    "regime": "another --regime",
    "image_sizes": "another --image-size",
    "started_from": "another --init-from",
    "warm": "another --warm-start-from",
    "resize": "another --resize",
    "feature_backend": "another --feature-backend",
    "seed": "another --seed",
    "space": "another space",
}


@dataclass(frozen=True, eq=False)
class StudyContext:
    """What a study works on.

    Attributes:
        index: The whole data set.
        split: Of the whole data set.
        development: The rows that the search may see.
        found: Backbones that can be had, and those left out.
        study: Name of the study.
        regime: `frozen` or `finetune`.
    """

    settings: Settings
    index: Dataset
    split: Split
    development: Dataset
    found: AvailableBackbones
    study: str
    regime: str

    @property
    def note(self) -> str:
        """What stands beside every number."""
        return SYNTHETIC if self.index.synthetic else ""

    @cached_property
    def audit(self) -> Audit:
        """What is odd about the data."""
        return audit(self.index)

    @property
    def backbones(self) -> dict[str, Backbone]:
        """By name."""
        return {backbone.name: backbone for backbone in self.found.backbones}

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """Sides in pixels, the first one first: one in the frozen regime."""
        more = self.settings.image_sizes if self.regime == FINETUNE else ()
        return tuple(dict.fromkeys((self.settings.image_size, *more)))

    @property
    def pruner(self) -> str:
        """Name of the pruner; `none` in the frozen regime, and for an engine that does not prune."""
        if self.regime == FROZEN or not ENGINES.get(self.settings.engine).capabilities.prunes:
            return "none"
        return self.settings.pruner or FINETUNE_PRUNER

    def space(self, backbones: Iterable[str]) -> tuple[Parameter, ...]:
        """The space of the regime."""
        names = tuple(backbones)
        policies = self.settings.augmentations
        if self.regime == FROZEN:
            return frozen_space(names, policies)
        return finetune_space(names, self.image_sizes, policies)

    def template(self) -> Predictions:
        """The development rows as predictions that say nothing yet."""
        rows = self.split.development
        text = {name: self.index.column(name)[rows] for name in ("path", "case", "subtype", "magnification")}
        fold = self.split.folds[:, rows]
        return Predictions(
            label=self.index.labels[rows],
            probability=np.full(fold.shape, 0.5, np.float32),
            fold=fold,
            group=self.split.groups[rows],
            stratum=self.split.strata[rows],
            **text,
        )

    def facts(self) -> dict[str, Any]:
        """What the study keeps, and must agree with when it goes on; without the backbones."""
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
            "versions": versions(),
        }


def build_context(settings: Settings, reporter: ProgressReporter) -> StudyContext:
    """Open the data, seal the test, deal the folds and find the backbones. Imports none of the slow frameworks.

    Raises:
        InputError: If anything the user gave is wrong.
    """
    _check_choices(settings)
    settings = with_sampler(settings)
    announce_synthetic(settings.data, reporter)
    with reporter.step("reading images") as progress:
        index = open_settings(settings, progress=progress)
    split = make_split(
        index,
        test_fraction=settings.test_fraction,
        n_folds=settings.folds,
        n_repeats=settings.repeats,
        group_by=settings.group_by,
        magnification=settings.magnification,
        ignore_predefined_split=settings.ignore_predefined_split,
    )
    regime = FINETUNE if settings.regime == FINETUNE else FROZEN
    weights = Path(settings.weights_dir) if settings.weights_dir else None
    with reporter.step("looking for backbones"):
        found = find_backbones(settings.backbones, weights, trainable=regime == FINETUNE)
    part = "" if split.magnification == "all" else f"-{split.magnification.lower()}"
    name = settings.study or f"{index.name}{part}-{regime}-{settings.group_by}-{settings.engine}"
    return StudyContext(settings, index, split, index.select(split.development), found, name, regime)


def announce_synthetic(data: str | None, reporter: ProgressReporter) -> None:
    """Draw the phantom where it is wanted and missing, as a step of its own: it takes longer than reading it."""
    if is_phantom(data):
        with reporter.step("drawing the phantom") as progress:
            make_phantom(data, progress)


def _check_choices(settings: Settings) -> None:
    """Refuse here what would else be met when the study is made already."""
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
    """Whether this machine has a GPU; asked of the system, since asking a framework takes seconds."""
    return any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/kfd"))


def check_agreement(name: str, held: dict[str, Any], now: dict[str, Any], backbones: dict[str, Backbone]) -> None:
    """Refuse to go on with a study that was made with something else.

    Raises:
        StudyError: Naming what differs.
    """
    held = held | {"space": _held_space(held.get("space"))}
    differences = [
        f"  {what}: {_short(held.get(key))} then, {_short(now[key])} now"
        for key, what in _MUST_AGREE.items()
        if held.get(key) != now[key]
    ]
    for backbone, digest in held["backbones"].items():
        if backbone not in backbones:
            differences.append(f"  fewer backbones: {backbone} was in its space then and is not there now")
        elif backbones[backbone].digest != digest:
            differences.append(f"  other weights of {backbone}")
    if differences:
        raise StudyError(
            f"The study {name!r} must go on with what it was made with, but has:\n" + "\n".join(differences) + "\n"
            "Give the same options again, or a new name with --study."
        )


def _held_space(space: Any) -> Any:
    """The digest of the space that a study keeps. Version 0.1.0 kept every parameter as text, descriptions included."""
    try:
        return digest_of_rows(map(ast.literal_eval, space)) if isinstance(space, list) else space
    except (ValueError, SyntaxError, KeyError, TypeError):
        return space


def make_plan(prepared: StudyContext, space: Sequence[Parameter], finished: int) -> StudyPlan:
    """Put into words what is about to be done."""
    settings, index, split = prepared.settings, prepared.index, prepared.split
    remaining = max(settings.trials - finished, 0)
    largest = max(backbone.size_mb for backbone in prepared.found.backbones)
    per_repeat = f"{settings.folds} folds" + (f" x {settings.repeats} repeats" if settings.repeats > 1 else "")
    rows = [
        (
            "data",
            f"{index.name}{', synthetic' if index.synthetic else ''}: {_images(index, np.ones(len(index), bool))}",
        ),
        ("files", describe_left_out(index.left_out)),
        ("search on", _part(prepared, split.development)),
        ("sealed", f"{_part(prepared, split.test)}, opened only by registering"),
        ("folds", f"{per_repeat} by {settings.group_by}"),
        ("regime", _regime(prepared)),
        ("backbones", ", ".join(prepared.backbones)),
        ("left out", _left_out(prepared.found)),
        ("space", f"{len(space)} parameters, {_sampler(settings)}, seed {settings.seed}"),
        ("trials", f"{remaining} to do, {finished} finished before"),
        ("study", f"{prepared.study} in {_place(settings)}"),
    ]
    if settings.tracking:
        members = settings.folds * settings.repeats if prepared.regime == FINETUNE else 1
        most = model_limit(settings.keep_models)
        kept = remaining if most is None else min(remaining, most)
        size = f"at most {kept * members * largest / 1000:.2g} GB of models" if kept else "no new models"
        rows.append(("results", f"MLflow, {size}"))
    rows.append(("use", "research only, never for screening patients"))
    warnings = [
        *index.notes,
        *split.warnings,
        *prepared.audit.summary_lines(),
        *gate_size_warnings(index, split),
        *(f"{len(index.bad)} images could not be read and were left out." for _ in index.bad[:1]),
    ]
    if index.synthetic:
        warnings.append(f"{SYNTHETIC}: the numbers say nothing about tissue.")
    return StudyPlan([row for row in rows if row[1]], warnings, split.leaks)


def versions() -> dict[str, str]:
    """Versions of what a result can depend on."""
    found = {"python": platform.python_version()}
    for package in ("bhsearch", *_PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def images_record(index: Dataset) -> dict[str, list[Any]]:
    """Every image with what its fingerprint rests on, so that a later difference can be named; columns."""
    return {name: index.table[name].tolist() for name in ("path", "label", "case", "pixels_digest")}


def _part(prepared: StudyContext, rows: npt.NDArray[np.bool_]) -> str:
    groups, labels = prepared.split.groups[rows], prepared.index.labels[rows]
    n_groups = len(np.unique(groups))
    by_class = [len(np.unique(groups[labels == value])) for value in (0, 1)]
    mixed = sum(by_class) - n_groups
    if mixed > n_groups // 2:
        return f"{n_groups} cases, {mixed} with both classes, {_images(prepared.index, rows)}"
    return f"{n_groups} cases ({by_class[0]} benign, {by_class[1]} malignant), {_images(prepared.index, rows)}"


def _images(index: Dataset, rows: npt.NDArray[np.bool_]) -> str:
    counts = np.bincount(index.labels[rows], minlength=2)
    return f"{rows.sum():,} images ({', '.join(f'{n:,} {name}' for n, name in zip(counts, CLASS_NAMES, strict=True))})"


def _regime(prepared: StudyContext) -> str:
    sizes = ", ".join(map(str, prepared.image_sizes))
    text = f"{prepared.regime}, images {sizes} px ({prepared.settings.resize})"
    if prepared.regime == FINETUNE:
        text += f", pruner {prepared.pruner}, from {prepared.settings.init_from or 'heads of its own'}"
    return text


def _sampler(settings: Settings) -> str:
    of = "" if settings.engine == Settings.engine else f" of {ENGINES.get(settings.engine).title}"
    return f"sampler {settings.sampler}{of}"


def _place(settings: Settings) -> str:
    return ENGINES.get(settings.engine).location(settings.storage)


def _left_out(found: AvailableBackbones) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, reason in found.left_out:
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(
        f"{', '.join(names) if len(names) <= _MOST_NAMES else f'{len(names)} networks'} ({reason})"
        for reason, names in by_reason.items()
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
