"""Registries of exchangeable components ("parts"), such as samplers, that are built in or come from other packages.

Another package registers a part, called a plugin, as an entry point in one of the groups of `BUILT_IN`, such as

    [project.entry-points."bhsearch.samplers"]
    sobol = "my_package.sobol:Sobol"

The names of the plugins are read from the metadata of installed distributions. A part is imported on first use. Set the
environment variable `BHSEARCH_PLUGINS=none` to disable all plugins.
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
# The built-in parts as `module:attribute`, by entry-point group and name; the default part of a group comes first. The
# groups of augmentations and metrics are empty, because the built-in ones are rows of tables and not importable parts.
BUILT_IN: dict[str, dict[str, str]] = {
    "bhsearch.layouts": {
        "breakhis": "bhsearch.data.layouts.breakhis_tree:LAYOUT",
        "idc": "bhsearch.data.layouts.idc:LAYOUT",
        "folders": "bhsearch.data.layouts.folders:LAYOUT",
        "manifest": "bhsearch.data.layouts.manifest:LAYOUT",
    },
    "bhsearch.backbones": {  # in the order of `--backbones auto`
        "staintex": "bhsearch.models.backbones.staintex:KIND",
        "cnn": "bhsearch.models.backbones.cnn:KIND",
        "keras-file": "bhsearch.models.backbones.keras_file:KIND",
        "joint": "bhsearch.models.backbones.joint:KIND",
        "onnx-file": "bhsearch.models.backbones.files.kind:ONNX_FILE",
        "openvino-file": "bhsearch.models.backbones.files.kind:OPENVINO_FILE",
        "saved-model": "bhsearch.models.backbones.files.kind:SAVED_MODEL_FOLDER",
        "keras-applications": "bhsearch.models.backbones.keras_applications:KIND",
        "encoder": "bhsearch.models.backbones.encoders.folder:KIND",
        "vectors": "bhsearch.models.backbones.vectors:KIND",
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
    "bhsearch.launchers": {
        "local": "bhsearch.study.workers.launchers.local:LAUNCHER",
        "ray": "bhsearch.study.workers.launchers.ray.launcher:LAUNCHER",
        "slurm": "bhsearch.study.workers.launchers.slurm.launcher:LAUNCHER",
    },
}
OWN = "bhsearch"  # name of the distribution of the built-in parts
T = TypeVar("T")


class UnknownPartError(SettingsError):
    """No part of this name is built in or provided by an installed distribution.

    Attributes:
        group: Entry-point group of the part.
        name: Name of the part as given by the user.
    """

    def __init__(self, message: str, group: str, name: str) -> None:
        super().__init__(message)
        self.group, self.name = group, name


@dataclass(frozen=True)
class PluginSource:
    """The distribution that provides a plugin.

    Attributes:
        distribution: Name of the distribution, as given to `pip install`.
        version: Installed version of the distribution.
    """

    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


class Registry(Generic[T]):
    """The built-in parts and plugins of one entry-point group, by name.

    Args:
        group: Entry-point group.
        option: Command-line option that selects a part, for messages.
        built_in: `module:attribute` of each built-in part by name, the default first; None for the group's entry in
            `BUILT_IN`.
        reserved: Further names that no plugin may have, such as those of built-in rows of a table.
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
        """Return the names of all parts: built-in parts first, then plugins in alphabetical order.

        Raises:
            SettingsError: If two parts have the same name.
        """
        return (*self.built_in, *sorted(self._plugins()))

    def get(self, name: str) -> T:
        """Import a part and return it.

        Raises:
            UnknownPartError: If there is no part of this name.
            SettingsError: If the part cannot be imported, or two parts have the same name.
        """
        if name in self.built_in:
            self._plugins()  # raises if a plugin has the same name as a built-in part
            module, _, attribute = self.built_in[name].partition(":")
            return cast(T, getattr(import_module(module), attribute))
        plugins = self._plugins()
        if name not in plugins:
            raise self.unknown(name, self.names())
        return cast(T, _imported(plugins[name], self.group))

    def unknown(self, name: str, known: Iterable[str], more: str = "") -> UnknownPartError:
        """Return the error for an unknown name.

        Args:
            name: Name that was given.
            known: Valid names, which the message lists.
            more: Text to append to the message.
        """
        names = ", ".join(known)
        message = (
            f"{self.option} must be one of {names}, but got {name!r}.{more}"
            if names
            else f"{self.option} must name a part of an installed package, but none has any, and got {name!r}. Install "
            "the package, or leave the option out."
        )
        return UnknownPartError(message, self.group, name)

    def source(self, name: str) -> PluginSource | None:
        """Return the distribution that provides a plugin; None for a built-in part or an unknown name."""
        plugins = self._plugins()
        return _source(plugins[name]) if name in plugins else None

    def _plugins(self) -> dict[str, metadata.EntryPoint]:
        found: dict[str, metadata.EntryPoint] = {}
        for entry in _entry_points(self.group):
            other = f"{OWN} (built in)" if entry.name in self._taken else ""
            if entry.name in found:
                other = str(_source(found[entry.name]))
            if other:
                raise SettingsError(
                    f"Two components of {self.group} have the name {entry.name!r}: in {other} and in {_source(entry)}. "
                    f"Uninstall one of the packages, or set {VARIABLE}=none to use only the built-in components."
                )
            found[entry.name] = entry
        return found


def are_enabled() -> bool:
    """Return whether plugins are enabled, according to the environment variable `BHSEARCH_PLUGINS`.

    Raises:
        SettingsError: If the environment variable has an unknown value.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "all", "none"):
        raise SettingsError(f"{VARIABLE} must be all or none, but got {value!r}. Unset it to use all plugins.")
    return value != "none"


def installed_version(distribution: str) -> str | None:
    """Return the installed version of a distribution; None if it is not installed or plugins are disabled."""
    try:
        return metadata.version(distribution) if are_enabled() else None
    except metadata.PackageNotFoundError:
        return None


def _entry_points(group: str) -> tuple[metadata.EntryPoint, ...]:
    return _scanned(group, tuple(sys.path)) if are_enabled() else ()


@cache
def _scanned(group: str, path: tuple[str, ...]) -> tuple[metadata.EntryPoint, ...]:  # noqa: ARG001  # cache key only
    found = {(entry.name, str(_source(entry))): entry for entry in metadata.entry_points(group=group)}
    return tuple(found[key] for key in sorted(found))


def _source(entry: metadata.EntryPoint) -> PluginSource:
    assert entry.dist is not None  # always set for entry points of installed distributions
    return PluginSource(entry.dist.name, entry.dist.version)


def _imported(entry: metadata.EntryPoint, group: str) -> object:
    try:
        return entry.load()
    except Exception as error:  # importing a plugin can raise any exception
        reason = (str(error) or repr(error)).splitlines()[0]
        raise SettingsError(
            f"Cannot import the plugin {entry.name!r} of {group} from {_source(entry)}: {type(error).__name__}: "
            f"{reason}. Repair or uninstall {_source(entry).distribution}, or set {VARIABLE}=none to disable all "
            "plugins."
        ) from error
