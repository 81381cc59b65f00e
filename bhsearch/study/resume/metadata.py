"""What a study keeps about itself in the storage of its engine, and what must agree when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from bhsearch.errors import StudyError
from bhsearch.models.backbones.base import Backbone
from bhsearch.objectives.space import Params


class Origin(TypedDict, total=False):
    """The frozen study that a finetune study was started from; empty if there is none.

    Attributes:
        study: Its name.
        uid: Its identifier.
        complete: How many of its trials had a score.
        heads: The best parameters of each backbone in the frozen space.
    """

    study: str
    uid: str
    complete: int
    heads: dict[str, Params]


class WarmStart(TypedDict, total=False):
    """The studies that a study takes its first parameters from, and these parameters."""

    studies: list[str]
    points: list[Params]


class NewMetadata(TypedDict):
    """Metadata of a study before its storage is opened."""

    data: str
    data_fingerprint: str
    split_fingerprint: str
    regime: str
    engine: str
    sampler: str | None
    group_by: str
    image_sizes: list[int]
    resize: str
    feature_backend: str
    seed: int
    space: str
    promotable: bool
    started_from: Origin
    warm: WarmStart
    versions: dict[str, str]
    plugins: NotRequired[dict[str, Any]]


class StudyMetadata(NewMetadata):
    """Metadata that a study keeps in its storage.

    Attributes:
        uid: Identifier that distinguishes the study from others of its name.
        backbones: Digest of the weights of each backbone, in the order in which the space lists them.
    """

    uid: str
    backbones: dict[str, str]


# A resumed study must have been created with the same values; the text names what differs.
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
_LONGEST = 40  # characters of a value in a message


def check_agreement(
    name: str, held: Mapping[str, Any], now: Mapping[str, Any], backbones: Mapping[str, Backbone]
) -> None:
    """Refuse to resume a study with other data, settings or weights than it was created with.

    Args:
        name: Name of the study.
        held: Metadata that the study keeps.
        now: The same from the current settings.
        backbones: Backbones that can be used now, by name.

    Raises:
        StudyError: If anything differs; the message lists every difference.
    """
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


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
