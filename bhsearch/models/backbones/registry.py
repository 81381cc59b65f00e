"""Find the backbones of a study by the names given by the user."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bhsearch.errors import BackboneError
from bhsearch.models.backbones.base import KINDS, NAME_SEPARATOR, AvailableBackbones, Backbone, BackboneKind
from bhsearch.models.backbones.licence import NO_WEIGHTS, UNKNOWN
from bhsearch.plugins import UnknownPartError

AUTO = "auto"
_NOTHING_TO_TRAIN = "its filters are fixed, so there is nothing to train"


class UnknownBackboneError(UnknownPartError, BackboneError):
    """Error for a name that no backbone has."""


def find_backbones(names: Iterable[str], weights_dir: Path | None, trainable: bool = False) -> AvailableBackbones:
    """Find backbones by name; the name `auto` stands for all available backbones of built-in kinds.

    Missing pretrained weights are never replaced by random weights.

    Args:
        names: Values of `--backbones`.
        weights_dir: Folder of weight files given by the user, or None.
        trainable: Whether the networks will be trained. If so, fixed filters are excluded, and networks without weights
            are included.

    Raises:
        BackboneError: If a name is unknown, or a named backbone is not available or not suitable for `trainable`.
        SettingsError: If a kind of another package cannot be imported.
    """
    names, weights_dir = list(dict.fromkeys(names)), checked_folder(weights_dir)
    found: dict[str, Backbone] = {}
    left_out: list[tuple[str, str]] = []
    for name in names:
        if name == AUTO:
            some, left_out = _find_all(weights_dir, trainable)
            found.update(some)
        else:
            backbone = find_one(name, weights_dir, trainable)
            if backbone.name in found and backbone.digest != found[backbone.name].digest:
                raise BackboneError(f"Two different backbones have the name {backbone.name!r}. Rename one of them.")
            found[backbone.name] = backbone
    return AvailableBackbones(tuple(found.values()), tuple(item for item in left_out if item[0] not in found))


def checked_folder(weights_dir: Path | None) -> Path | None:
    """Return the folder of weight files that the user gave, with the home folder in place of `~`.

    Raises:
        BackboneError: If there is no such folder.
    """
    weights_dir = weights_dir.expanduser() if weights_dir is not None else None
    if weights_dir is not None and not weights_dir.is_dir():
        raise BackboneError(f"--weights-dir must be an existing folder, but got {str(weights_dir)!r}.")
    return weights_dir


def kind_of(name: str) -> str | None:
    """Return the name of the kind to which the name of a backbone belongs; None for an unknown name.

    Kinds of other packages are not imported.
    """
    own = next((kind for kind in KINDS.built_in if KINDS.get(kind).claims(name)), None)
    prefix = name.partition(NAME_SEPARATOR)[0]
    return own or (prefix if prefix in KINDS and prefix not in KINDS.built_in else None)


def name_of(given: str) -> str:
    """Return the name in the search space of the backbone to which a name given by the user refers."""
    kind = kind_of(given)
    return KINDS.get(kind).name_of(given) if kind is not None and kind in KINDS.built_in else given


def is_from_scratch(name: str) -> bool:
    """Return whether a backbone has no pretrained weights and is trained from scratch; False for an unknown name."""
    kind = kind_of(name)
    return kind is not None and KINDS.get(kind).from_scratch


def licence_without_record(name: str) -> str:
    """Return what the name of a backbone tells about its licence: `no weights` or `unknown`.

    Studies of earlier versions recorded no licence, and weights may have been replaced since.
    """
    kind = kind_of(name)
    return NO_WEIGHTS if kind in KINDS.built_in and not KINDS.get(kind).needs_weights else UNKNOWN


def _find_all(weights_dir: Path | None, trainable: bool) -> tuple[dict[str, Backbone], list[tuple[str, str]]]:
    found: dict[str, Backbone] = {}
    left_out: list[tuple[str, str]] = []
    for kind in map(KINDS.get, KINDS.built_in):
        if _is_usable(kind, trainable):
            some = kind.find_all(weights_dir)
            found |= {backbone.name: backbone for backbone in some.backbones}
            left_out += some.left_out
        elif trainable:
            left_out += [(name, _NOTHING_TO_TRAIN) for name in kind.names()]
    return found, left_out


def _is_usable(kind: BackboneKind, trainable: bool | None) -> bool:
    return trainable is None or (kind.trainable if trainable else not kind.from_scratch)


def find_one(name: str, weights_dir: Path | None, trainable: bool | None = None) -> Backbone:
    """Find the backbone with a name given by the user.

    Args:
        name: A value of `--backbones` other than `auto`.
        weights_dir: Folder of weight files given by the user, or None.
        trainable: Whether the network will be trained; None to find any backbone.

    Raises:
        BackboneError: If the name is unknown, or the backbone is not available or not suitable for `trainable`.
        SettingsError: If a kind of another package cannot be imported.
    """
    of = kind_of(name)
    if of is None:
        kinds = [kind for kind in map(KINDS.get, KINDS.built_in) if _is_usable(kind, trainable)]
        known = [*(known for kind in kinds for known in kind.names()), *(k for k in KINDS if k not in KINDS.built_in)]
        message = (
            f"A backbone must be one of {', '.join(known)}, a .keras, .onnx or OpenVINO .xml file, a SavedModel "
            f"folder, or a folder with config.json and model.safetensors, but got {name!r}."
        )
        raise UnknownBackboneError(message, KINDS.group, name.partition(NAME_SEPARATOR)[0])
    kind = KINDS.get(of)
    if trainable and not kind.is_keras:
        raise BackboneError(
            f"The backbone {name!r} cannot be fine-tuned: an encoder in a file of this format ({kind.title}) can be "
            "run, but not trained. Leave it out, or use --regime frozen."
        )
    if trainable and not kind.trainable:
        raise BackboneError(
            f"The backbone {name!r} cannot be fine-tuned ({_NOTHING_TO_TRAIN}). Leave it out, or use --regime frozen."
        )
    if trainable is False and kind.from_scratch:
        raise BackboneError(
            f"The backbone {name!r} is trained from scratch, so it cannot be used with frozen features. Use --regime "
            "finetune, or leave the backbone out."
        )
    return kind.find(name, weights_dir)
