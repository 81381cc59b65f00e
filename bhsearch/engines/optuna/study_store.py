"""Optuna as an implementation of `StudyStore`: studies in a database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import optuna

from bhsearch.engines.base import Capabilities, Engine, StoredStudy
from bhsearch.engines.optuna import engine
from bhsearch.engines.optuna.registry import SAMPLERS
from bhsearch.engines.optuna.storages.connection import (
    connect,
    discard_if_new,
    explain_unwritable,
    reconnect,
    retry_while_unavailable,
)
from bhsearch.engines.optuna.storages.url import check_storage, storage_file, without_password
from bhsearch.errors import MissingError
from bhsearch.objectives.space import Parameter, Params
from bhsearch.plugins import PluginSource


@dataclass(frozen=True)
class OptunaStudy:
    """A study in an Optuna database; see `StoredStudy`."""

    study: optuna.Study

    def metadata(self) -> dict[str, Any]:
        """Return the metadata that the study was created with; see `StoredStudy.metadata`."""
        return engine.metadata_of(self.study)

    def save_settings(self, settings: dict[str, Any]) -> None:
        """Store the settings of the last command that opened the study."""
        engine.save_settings(self.study, settings)

    def load_settings(self) -> dict[str, Any]:
        """Return the most recently stored settings."""
        return engine.load_settings(self.study)

    def completed_trials(self) -> list[tuple[float, Params]]:
        """Return the score and the parameters of every complete trial."""
        return engine.completed_trials(self.study)

    def add_backbones(self, metadata: dict[str, Any], backbones: Sequence[str]) -> StoredStudy:
        """Extend the choices of the parameter `backbone`; see `StoredStudy.add_backbones`."""
        return OptunaStudy(engine.add_backbones(self.study, metadata, backbones))

    def engine(
        self, space: Sequence[Parameter], sampler: str, seed: int, pruner: str = "none", steps_per_fold: int = 1
    ) -> Engine:
        """Open the study for trials; see `StoredStudy.engine`."""
        return engine.OptunaEngine(self.study, space, sampler, seed, pruner, steps_per_fold)


class OptunaStore:
    """The engine `optuna`, which stores studies in a database; see `StudyStore`."""

    name = "optuna"
    title = "Optuna"
    capabilities = Capabilities(prunes=True, parallel=True, uses_database=True, combines=True)

    def __init__(self) -> None:
        # Storages by URL that `open` has opened and that are still in use, for `discard_if_new`.
        self._opened: WeakValueDictionary[str, optuna.storages.BaseStorage] = WeakValueDictionary()

    def samplers(self) -> tuple[str, ...]:
        """Return the names of the samplers, the default first."""
        return SAMPLERS.names()

    def sampler_source(self, name: str) -> PluginSource | None:
        """Return the Python distribution that provides a sampler; None for a built-in sampler."""
        return SAMPLERS.source(name)

    def check(self, storage: str) -> None:
        """Check that several processes can open the storage; see `check_storage`."""
        check_storage(storage)

    def location(self, storage: str) -> str:
        """Return the URL of the storage without user, password and options."""
        return without_password(storage)

    def lock_key(self, storage: str) -> str:
        """Return the URL, or the path of the file for a storage in a file."""
        file = storage_file(storage)
        return storage if file is None else str(file.resolve())

    def open(self, storage: str, name: str, metadata: dict[str, Any]) -> StoredStudy:
        """Open a study; create it if it does not exist; see `StudyStore.open`."""
        connected = self._opened[storage] = connect(storage)
        with explain_unwritable():
            return OptunaStudy(engine.open_study(connected, name, metadata))

    def find(self, storage: str, name: str, patient: bool = False) -> StoredStudy:
        """Open an existing study, without creating the database; see `StudyStore.find`."""
        if not patient:
            check_storage(storage)
        file = storage_file(storage)
        if file is not None and not file.exists():  # opening it would create an empty one
            raise MissingError(f"There is no study {name!r} in the storage: {file.absolute()} does not exist.")
        return _joined(storage, name) if patient else OptunaStudy(engine.find_study(connect(storage), name))

    def names(self, storage: str) -> list[str]:
        """Return the names of all studies; empty if the file of the storage does not exist."""
        file = storage_file(storage)
        if file is not None and not file.exists():
            return []
        return list(optuna.get_all_study_names(connect(storage)))

    def discard_if_new(self, storage: str) -> None:
        """Delete the file of the storage if this process created it and it contains no study."""
        connected = self._opened.get(storage)
        if connected is not None:
            discard_if_new(connected)


@retry_while_unavailable
def _joined(storage: str, name: str) -> StoredStudy:
    return OptunaStudy(engine.find_study(reconnect(storage), name))


STORE = OptunaStore()
