"""Catalogue of the backbones that are available on this machine, for people who choose among them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bhsearch.errors import BackboneError
from bhsearch.models.backbones.base import KINDS, Backbone, Description
from bhsearch.models.backbones.registry import AUTO, checked_folder, find_one
from bhsearch.models.measured_speeds import MeasuredSpeed, measured_speeds

BUILT_IN = "bhsearch"  # place of backbones without files


@dataclass(frozen=True)
class Entry:
    """A backbone that is available.

    Attributes:
        backbone: The backbone.
        kind: Name of its kind for people.
        description: Its properties.
        place: File, folder or package in which it was found.
        not_at: Reason why it does not take images of the requested size; empty if it does.
        speeds: Measured speeds.
    """

    backbone: Backbone
    kind: str
    description: Description
    place: str
    not_at: str
    speeds: tuple[MeasuredSpeed, ...]


@dataclass(frozen=True)
class Catalogue:
    """Available backbones, and those that are not available.

    Attributes:
        entries: Available backbones.
        left_out: Pairs of name and reason for each other backbone that bhsearch or a plugin knows.
        unusable: Messages for names given by the user that no usable backbone has.
    """

    entries: tuple[Entry, ...]
    left_out: tuple[tuple[str, str], ...]
    unusable: tuple[str, ...]


def read_catalogue(names: Iterable[str], weights_dir: Path | None, size: int) -> Catalogue:
    """Find and describe backbones of all kinds, for either regime.

    Args:
        names: Names, files and folders as in `--backbones`; empty or `auto` for all backbones that need not be named. A
            network of `keras.applications` is downloaded only if it is named.
        weights_dir: Folder of weight files given by the user, or None.
        size: Side of the images in pixels.

    Raises:
        BackboneError: If `weights_dir` is not a folder.
        SettingsError: If a plugin cannot be imported.
    """
    names, weights_dir = list(dict.fromkeys(names)), checked_folder(weights_dir)
    entries: list[Entry] = []
    left_out: list[tuple[str, str]] = []
    unusable: list[str] = []
    if not names or AUTO in names:
        for kind in KINDS:
            some, others = _all_of(kind, weights_dir, size)
            entries += some
            left_out += others
    for name in names:
        if name != AUTO:
            try:
                entries.append(_entry(find_one(name, weights_dir), size))
            except BackboneError as error:
                unusable.append(str(error))
    return Catalogue(tuple(entries), tuple(left_out), tuple(unusable))


def _all_of(kind_name: str, weights_dir: Path | None, size: int) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Return the available backbones of a kind, and names of others with the reason."""
    kind = KINDS.get(kind_name)
    if kind_name in KINDS.built_in:
        found = kind.find_all(weights_dir, download=False)
        return [_entry(backbone, size) for backbone in found.backbones], list(found.left_out)
    entries, left_out = [], []  # `find_all` of a plugin is not used, since `auto` does not include it
    for name in kind.names():
        try:
            entries.append(_entry(kind.find(name, weights_dir), size))
        except BackboneError as error:
            left_out.append((name, str(error)))
    return entries, left_out


def _entry(backbone: Backbone, size: int) -> Entry:
    not_at = ""
    try:
        backbone.check_size(size)
    except BackboneError as error:
        not_at = str(error)
    kind = KINDS.get(backbone.kind)
    source = KINDS.source(backbone.kind)
    place = str(backbone.file) if backbone.file is not None else str(source or BUILT_IN)
    return Entry(backbone, kind.title, backbone.describe(size), place, not_at, measured_speeds(backbone))
