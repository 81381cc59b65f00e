"""Registries of exchangeable parts: those that bhsearch brings, and those of other packages, found by entry points.

A package offers a part by an entry point in one of the groups of `BUILT_IN`, such as

    [project.entry-points."bhsearch.samplers"]
    sobol = "my_package.sobol:Sobol"

The names of all parts are read from the metadata of the installed distributions. A part is imported when it is used.
`BHSEARCH_PLUGINS=none` in the environment disables the parts of other packages.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from typing import Generic, TypeVar, cast

from bhsearch.errors import SettingsError

VARIABLE = "BHSEARCH_PLUGINS"
# The built-in parts as `module:attribute`, by the group of entry points that adds to them; the default comes first.
# Augmentation policies and metrics are rows of a table each, so other packages alone offer them as parts.
BUILT_IN: dict[str, dict[str, str]] = {
    "bhsearch.layouts": {
        "breakhis": "bhsearch.data.layouts.breakhis_tree:LAYOUT",
        "idc": "bhsearch.data.layouts.idc:LAYOUT",
        "folders": "bhsearch.data.layouts.folders:LAYOUT",
        "manifest": "bhsearch.data.layouts.manifest:LAYOUT",
    },
    "bhsearch.backbones": {  # in the order in which `--backbones auto` lists them
        "staintex": "bhsearch.models.backbones.staintex:KIND",
        "cnn": "bhsearch.models.backbones.cnn:KIND",
        "keras-file": "bhsearch.models.backbones.keras_file:KIND",
        "keras-applications": "bhsearch.models.backbones.keras_applications:KIND",
    },
    "bhsearch.augmentations": {},
    "bhsearch.metrics": {},
    "bhsearch.engines": {
        "optuna": "bhsearch.engines.optuna.study_store:STORE",
        "keras-tuner": "bhsearch.engines.keras_tuner.study_store:STORE",
    },
    "bhsearch.samplers": {
        "tpe": "bhsearch.engines.optuna.samplers:TPE",
        "random": "bhsearch.engines.optuna.samplers:RANDOM",
        "qmc": "bhsearch.engines.optuna.samplers:QMC",
        "cmaes": "bhsearch.engines.optuna.samplers:CMAES",
    },
    "bhsearch.launchers": {"local": "bhsearch.study.workers.launchers.local:LAUNCHER"},
}
OWN = "bhsearch"  # the distribution of the built-in parts
T = TypeVar("T")


class UnknownPartError(SettingsError):
    """No installed distribution has a part of this name.

    Attributes:
        group: Group of entry points.
        name: As the user gave it.
    """

    def __init__(self, message: str, group: str, name: str) -> None:
        super().__init__(message)
        self.group, self.name = group, name


@dataclass(frozen=True)
class PluginSource:
    """The distribution that a part comes from.

    Attributes:
        distribution: Name, as a package installer takes it.
        version: Installed version.
    """

    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


class Registry(Generic[T]):
    """The parts of one kind, by name.

    Args:
        group: Group of entry points.
        option: Name of the option that chooses a part, for messages.
        built_in: `module:attribute` of each built-in part, the default first; None for those in `BUILT_IN`.
        reserved: Names of built-in parts that are not objects; no other part may have them.
    """

    def __init__(
        self, group: str, option: str, built_in: Mapping[str, str] | None = None, reserved: Iterable[str] = ()
    ) -> None:
        self.group, self.option = group, option
        self.built_in = dict(BUILT_IN[group] if built_in is None else built_in)
        self._taken = {*self.built_in, *reserved}

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def names(self) -> tuple[str, ...]:
        """Return the names of all parts: the built-in ones, then those of other packages in alphabetical order.

        Raises:
            SettingsError: If two parts have the same name.
        """
        return (*self.built_in, *sorted(self._plugins()))

    def get(self, name: str) -> T:
        """Import a part.

        Raises:
            UnknownPartError: If there is no part of this name.
            SettingsError: If the part cannot be imported, or two parts have this name.
        """
        if name in self.built_in:
            self._plugins()  # two parts of this name are an error, whichever is meant
            module, _, attribute = self.built_in[name].partition(":")
            return cast(T, getattr(import_module(module), attribute))
        plugins = self._plugins()
        if name not in plugins:
            raise self.unknown(name, self.names())
        return cast(T, _imported(plugins[name], self.group))

    def unknown(self, name: str, known: Iterable[str], more: str = "") -> UnknownPartError:
        """Return the error for a name that is not one of `known`; `more` follows the message."""
        message = f"{self.option} must be one of {', '.join(known)}, but got {name!r}.{more}"
        return UnknownPartError(message, self.group, name)

    def source(self, name: str) -> PluginSource | None:
        """Return the distribution of a part; None for a built-in part and for an unknown name."""
        plugins = self._plugins()
        return _source(plugins[name]) if name in plugins else None

    def _plugins(self) -> dict[str, metadata.EntryPoint]:
        found: dict[str, metadata.EntryPoint] = {}
        for entry in _entry_points(self.group):
            other = f"{OWN}, as a built-in part" if entry.name in self._taken else ""
            if entry.name in found:
                other = str(_source(found[entry.name]))
            if other:
                raise SettingsError(
                    f"Names in the group {self.group} must be unique, but {entry.name!r} is in {other} and in "
                    f"{_source(entry)}. Uninstall one of them, or set {VARIABLE}=none to use the built-in parts only."
                )
            found[entry.name] = entry
        return found


def are_enabled() -> bool:
    """Return whether parts of other packages are used.

    Raises:
        SettingsError: If the environment variable has an unknown value.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "all", "none"):
        raise SettingsError(f"{VARIABLE} must be all or none, but got {value!r}. Unset it to use all parts.")
    return value != "none"


def other_names(group: str) -> tuple[str, ...]:
    """Return the names of the parts of other packages in alphabetical order, for lists of choices.

    Nothing is imported, and names that two packages use are no error here: choosing one of them is.
    """
    return tuple(sorted({entry.name for entry in _entry_points(group)}))


def installed_version(distribution: str) -> str | None:
    """Return the version of a distribution that is installed and enabled; None otherwise."""
    try:
        return metadata.version(distribution) if are_enabled() else None
    except metadata.PackageNotFoundError:
        return None


def _entry_points(group: str) -> tuple[metadata.EntryPoint, ...]:
    return _scanned(group, tuple(sys.path)) if are_enabled() else ()


@cache
def _scanned(group: str, path: tuple[str, ...]) -> tuple[metadata.EntryPoint, ...]:  # noqa: ARG001  # part of the key
    found = {(entry.name, str(_source(entry))): entry for entry in metadata.entry_points(group=group)}
    return tuple(found[key] for key in sorted(found))


def _source(entry: metadata.EntryPoint) -> PluginSource:
    assert entry.dist is not None  # entry points of installed distributions have one
    return PluginSource(entry.dist.name, entry.dist.version)


def _imported(entry: metadata.EntryPoint, group: str) -> object:
    try:
        return entry.load()
    except Exception as error:  # a foreign module can fail in any way; all of them mean the same to the user
        reason = (str(error) or repr(error)).splitlines()[0]
        raise SettingsError(
            f"The part {entry.name!r} of {group} must be importable, but {_source(entry)} failed to import: "
            f"{type(error).__name__}: {reason}. Repair or uninstall {_source(entry).distribution}, or set "
            f"{VARIABLE}=none."
        ) from error
