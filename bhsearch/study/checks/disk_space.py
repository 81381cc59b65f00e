"""Estimate the disk space that a study needs, and check before its first trial that every disk has enough."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bhsearch.config import model_limit
from bhsearch.data.images.pixel_cache import pixel_file
from bhsearch.errors import PlaceError
from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.models.resize import make_resize
from bhsearch.objectives.space import frozen_space
from bhsearch.runtime.cache import cache_root, entries
from bhsearch.study.context import FINETUNE, StudyContext
from bhsearch.tracking.connection import artifact_folder, is_on_server
from bhsearch.tracking.upload.outbox import outbox_root

# Lower and upper bounds, from finished studies with 57 to 415 images. The files of a trial without its model took 0.19
# MB with 414 images of 96 pixels, including 150 bytes per image for predictions, and the database grew by 70 kB per
# trial. The example images take most of the rest, 20 to 150 kB by their size. A model took 0.1 MB more than the weights
# of its backbone.
_TRIAL_BYTES, _IMAGE_BYTES = (40_000, 400_000), (100, 200)
_MODEL_BYTES = 200_000
_FEW = 5  # number of models to keep that the advice suggests


@dataclass(frozen=True)
class DiskRequirement:
    """An estimate of one kind of data that a study will write to one folder.

    Attributes:
        what: Description of the data, for messages.
        place: Folder of the data, which may not exist yet.
        least: Lower bound of the size in bytes.
        most: Upper bound of the size in bytes.
    """

    what: str
    place: Path
    least: int
    most: int


def require_space(prepared: StudyContext, remaining: int) -> None:
    """Check that no disk has less free space than the study needs at least.

    Args:
        prepared: Context of the study.
        remaining: Number of trials still to run.

    Raises:
        PlaceError: If a disk is too small; the message lists the required space and suggests remedies.
    """
    for free, needs in _by_disk(requirements_of(prepared, remaining)):
        least = sum(need.least for need in needs)
        if least > free:
            parts = [f"  {_size(need.least)} of {need.what} in {need.place}" for need in needs if need.least]
            raise PlaceError(
                f"The study needs at least {_size(least)} on one disk, but only {_size(free)} are free there:\n"
                + "\n".join(parts)
                + f"\n{_advice(needs, least - free)} Then repeat the command to continue the study."
            )


def warnings_of(prepared: StudyContext, remaining: int) -> list[str]:
    """Return a warning for each disk that has less free space than the study may need at most."""
    found = []
    for free, needs in _by_disk(requirements_of(prepared, remaining)):
        most = sum(need.most for need in needs)
        if most > free:
            largest = max(needs, key=lambda need: need.most)
            found.append(
                f"The study may write up to {_size(most)}, but only {_size(free)} are free. The "
                f"largest part is up to {_size(largest.most)} of {largest.what} in {largest.place}. "
                f"{_advice(needs, most - free)}"
            )
    return found


def requirements_of(prepared: StudyContext, remaining: int) -> list[DiskRequirement]:
    """Return the disk space that the remaining trials of a study will need; items of a few kilobytes are omitted."""
    if not remaining:
        return []
    return [*_cache_needs(prepared), *_tracking_needs(prepared, remaining)]


def _cache_needs(prepared: StudyContext) -> list[DiskRequirement]:
    if prepared.index.vectors:
        return []  # which are in the cache already
    n_images, root = len(prepared.development), cache_root()
    pixels = 0
    for size in prepared.image_sizes:
        resize = make_resize(prepared.settings.resize, size)
        if not pixel_file(prepared.development, resize).exists():
            pixels += n_images * int(np.prod(resize.shape))
    trained = [backbone for backbone in prepared.found.backbones if not backbone.from_scratch]
    widths = sum(backbone.most_features for backbone in trained)
    features = 4 * n_images * widths * len(_views(prepared)) * len(prepared.image_sizes)
    converted = 0 if prepared.settings.feature_backend == "keras" else sum(b.size_mb for b in trained) * 1e6
    return [  # the minimum of features and networks is 0: they may be cached under names that the framework determines
        DiskRequirement("resized images", root, pixels, pixels),
        DiskRequirement("features", root, 0, features),
        DiskRequirement("converted networks", root, 0, int(converted * len(prepared.image_sizes))),
    ]


def _views(prepared: StudyContext) -> set[str]:
    """Return the augmented views that the search space can use; finetuning caches features of original images only."""
    if prepared.regime == FINETUNE:
        return {IDENTITY}
    rows = {row.name: row.choices for row in frozen_space(("",), prepared.settings.augmentations)}
    return {view for policy in rows["policy"] for view in views_of(policy, max(rows["views"]))}


def _tracking_needs(prepared: StudyContext, remaining: int) -> list[DiskRequirement]:
    settings = prepared.settings
    if not settings.tracking:
        return []
    n_images, work, temporary = len(prepared.development), Path.cwd(), Path(tempfile.gettempdir())
    members = settings.folds * settings.repeats if prepared.regime == FINETUNE else 1
    sizes = [int(backbone.model_mb * 1e6) for backbone in prepared.found.backbones]
    joined = max(settings.combine, 1)  # backbones in one model
    least, most = members * min(sizes), members * sum(sorted(sizes, reverse=True)[:joined])
    # With a pruner, only the first trial certainly runs to its end and saves a model.
    certain = remaining if prepared.pruner == "none" else 1
    kept = model_limit(settings.keep_models)
    n_least, n_most = (n if kept is None else min(n, kept) for n in (certain, remaining))
    if kept is not None and settings.trials > remaining:  # new models may replace those of earlier trials
        n_least = 0
    needs = [
        DiskRequirement(
            "a model while it is written",
            temporary,
            least if n_least else 0,
            2 * (most + _MODEL_BYTES) if kept != 0 else 0,
        ),
        DiskRequirement("a trial that waits for MLflow", work / outbox_root(), 0, most + _MODEL_BYTES),
    ]
    if not is_on_server():
        files = (_TRIAL_BYTES[k] + _IMAGE_BYTES[k] * settings.repeats * n_images for k in (0, 1))
        least_files, most_files = files
        place = artifact_folder() or work / "mlruns"
        needs += [
            DiskRequirement("models", place, n_least * least, n_most * (most + _MODEL_BYTES)),
            DiskRequirement("pictures and predictions", place, certain * least_files, remaining * most_files),
        ]
    return needs


def _by_disk(needs: Sequence[DiskRequirement]) -> list[tuple[int, list[DiskRequirement]]]:
    """Group requirements by disk, and return the number of free bytes and the requirements of each disk."""
    disks: dict[int, tuple[int, list[DiskRequirement]]] = {}
    for need in needs:
        place = need.place.absolute()
        while not place.exists():
            place = place.parent
        disks.setdefault(place.stat().st_dev, (shutil.disk_usage(place).free, []))[1].append(need)
    return list(disks.values())


def _advice(needs: Sequence[DiskRequirement], missing: int) -> str:
    """Return a sentence with suggestions that free or save disk space, most effective first."""
    found = []
    if any(need.place == cache_root() and need.most for need in needs):
        held = sum(entry.n_bytes for entry in entries())
        if held > missing:
            found.append(f"`python -m bhsearch.dataset cache --clear` frees {_size(held)}")
        found.append("BHSEARCH_CACHE=FOLDER moves the cache to another folder")
    if any(need.what == "models" and need.most > missing // 2 for need in needs):
        found.append(f"--keep-models best:{_FEW} or none keeps fewer models")
    return f"To free or save space: {'; '.join([*found, 'delete other files'])}."


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"
