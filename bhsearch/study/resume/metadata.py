"""The metadata of a study in the storage of its engine, and the comparison with the settings when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from bhsearch.errors import StudyError
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.vectors import takes_vectors
from bhsearch.models.frozen.precision import BF16, F32
from bhsearch.objectives.space import BATCH_SIZES, Params
from bhsearch.tasks import TaskRecord, restore_task, task_record


class Origin(TypedDict, total=False):
    """The frozen study that a finetune study was started from; empty if the study was started from scratch.

    Attributes:
        study: Name of the frozen study.
        uid: Unique identifier of the frozen study.
        complete: Number of its complete trials when the finetune study was created.
        heads: Best parameters of each backbone in the frozen study, by backbone.
    """

    study: str
    uid: str
    complete: int
    heads: dict[str, Params]


class WarmStart(TypedDict, total=False):
    """The first parameters of a study that were taken from earlier studies (`--warm-start-from`).

    Attributes:
        studies: Names of the earlier studies.
        points: Parameters to try first, in order.
    """

    studies: list[str]
    points: list[Params]


class NewMetadata(TypedDict):
    """The metadata of a study that follow from its settings and data, before its storage is opened."""

    data: str
    task: TaskRecord
    data_fingerprint: str
    split_fingerprint: str
    regime: str
    engine: str
    sampler: str | None
    group_by: str
    image_sizes: list[int]
    batch_sizes: NotRequired[list[int]]
    resize: str
    feature_backend: str
    feature_precision: NotRequired[str]
    seed: int
    space: str
    combine: NotRequired[int]
    score_weight_shift: float
    features_key: str | None
    promotable: bool
    started_from: Origin
    warm: WarmStart
    versions: dict[str, str]
    plugins: NotRequired[dict[str, Any]]


class StudyMetadata(NewMetadata):
    """The metadata of a study as stored by its engine.

    Attributes:
        uid: Unique identifier, which distinguishes the study from other studies of the same name.
        backbones: Digest of the weights by backbone, in the order of the choices of the parameter `backbone`.
    """

    uid: str
    backbones: dict[str, str]


# Metadata that must not change when a study is resumed, with the description of a difference for the message.
_MUST_AGREE = {
    "task": "another task or other class names",
    "data_fingerprint": "images, labels or cases",
    "split_fingerprint": "split (--folds, --repeats, --test-fraction, --group-by, --magnification)",
    "regime": "--regime",
    "image_sizes": "--image-size",
    "batch_sizes": "--batch-sizes",
    "started_from": "--init-from",
    "warm": "--warm-start-from",
    "resize": "--resize",
    "feature_backend": "--feature-backend",
    "feature_precision": "--feature-precision",
    "seed": "--seed",
    "space": "search space",
    "combine": "--combine",
    "score_weight_shift": "--score-weight-shift",
    "features_key": "--features-key",
}
_LONGEST = 40  # maximum number of characters of a value in a message


def check_agreement(
    name: str, held: Mapping[str, Any], now: Mapping[str, Any], backbones: Mapping[str, Backbone]
) -> None:
    """Check that a study is resumed with the data, settings and weights that it was created with.

    Args:
        name: Name of the study.
        held: Stored metadata of the study.
        now: Metadata that follow from the current settings.
        backbones: Currently available backbones, by name.

    Raises:
        StudyError: If the metadata or weights differ; the message lists every difference.
    """
    before = {  # of earlier versions
        "score_weight_shift": 0.0,
        "features_key": None,
        "combine": 0,
        "batch_sizes": list(BATCH_SIZES) if now["batch_sizes"] else [],
        "feature_precision": F32 if now["feature_precision"] == BF16 else now["feature_precision"],
    }
    held = {**before, **held, "task": task_record(restore_task(held.get("task")))}
    differences = [
        f"  {what}: was {_short(held.get(key))}, is now {_short(now[key])}"
        for key, what in _MUST_AGREE.items()
        if held.get(key) != now[key]
    ]
    for backbone, digest in held["backbones"].items():
        if backbone not in backbones:
            differences.append(
                f"  fewer backbones: {backbone} was in the search space, and is not available or not selected now"
            )
        elif backbones[backbone].digest != digest:
            what = "vectors" if takes_vectors(backbones[backbone]) else "weights"
            differences.append(
                f"  {what} of {backbone}: the digest was {_short(digest)}, is now {_short(backbones[backbone].digest)}"
            )
    if differences:
        raise StudyError(
            f"Cannot resume the study {name!r}, because it was created with other settings or data:\n"
            + "\n".join(differences)
            + "\nUse the same options as before, or create a new study with --study."
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
