"""The engine of a study: opened, checked against what the study was made with, and joined by workers."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from bhsearch.config import Settings, portable
from bhsearch.engines.base import Engine
from bhsearch.engines.keras_tuner import storage as keras_tuner_store
from bhsearch.engines.keras_tuner.engine import KerasTunerEngine
from bhsearch.engines.optuna import engine as optuna_engine
from bhsearch.engines.optuna.engine import OptunaEngine
from bhsearch.engines.optuna.storage import connect, discard_if_new, reconnect, retry_while_unavailable
from bhsearch.engines.registry import KERAS_TUNER, OPTUNA
from bhsearch.errors import InputError, MissingError
from bhsearch.objectives.space import Params
from bhsearch.runtime.cache import interprocess_lock
from bhsearch.study.context import StudyContext
from bhsearch.study.metadata import NewMetadata, StudyMetadata, check_agreement
from bhsearch.study.objective_factory import steps_per_fold
from bhsearch.study.warm_start import origin_of, warm_points

# Modules with the functions open_study, find_study, metadata_of, save_settings, completed_trials and add_backbones.
_STORES: dict[str, Any] = {OPTUNA: optuna_engine, KERAS_TUNER: keras_tuner_store}


def open_engine(prepared: StudyContext) -> tuple[StudyMetadata, Engine]:
    """Open a study, refuse it if it does not fit, and let its backbones grow.

    Returns:
        What the study keeps, and its engine.

    Raises:
        StudyError: If the study was made with something else.
    """
    settings = prepared.settings
    now = prepared.metadata()
    weights = {name: backbone.digest for name, backbone in prepared.backbones.items()}
    with interprocess_lock(
        f"the storage {settings.storage}"
    ):  # of two that make its tables, or the study, one would fail
        storage = _place(settings.engine, settings.storage)
        try:
            return _opened(prepared, storage, now, weights)
        except InputError:
            if settings.engine == OPTUNA:
                discard_if_new(storage)
            raise


def _opened(
    prepared: StudyContext, storage: Any, now: NewMetadata, weights: dict[str, str]
) -> tuple[StudyMetadata, Engine]:
    settings, store = prepared.settings, _STORES[prepared.settings.engine]
    find = partial(find_any_study, settings)
    now["started_from"] = origin_of(prepared, find)
    now["warm"] = {"studies": list(settings.warm_start_from), "points": warm_points(prepared, find)}
    study = store.open_study(storage, prepared.study, {**now, "uid": uuid.uuid4().hex[:12], "backbones": weights})
    held: StudyMetadata = store.metadata_of(study)
    if held["started_from"].get("uid") == now["started_from"].get("uid"):
        now["started_from"] = held["started_from"]  # more trials there do not change what is trained here
    if not settings.warm_start_from or held["warm"]["studies"] == now["warm"]["studies"]:
        now["warm"] = held["warm"]  # they were looked up once
    check_agreement(prepared.study, held, now, prepared.backbones)
    names = (*held["backbones"], *(name for name in weights if name not in held["backbones"]))
    if len(names) > len(held["backbones"]):
        held["backbones"] = {name: weights[name] for name in names}
        study = store.add_backbones(study, held, names)
    store.save_settings(study, portable(settings))
    return held, _engine(prepared, study, names)


@retry_while_unavailable
def join_engine(prepared: StudyContext, metadata: StudyMetadata) -> Engine:
    """The engine of a study that is open already in another process."""
    settings = prepared.settings
    study = _STORES[settings.engine].find_study(_place(settings.engine, settings.storage, reconnect), prepared.study)
    return _engine(prepared, study, tuple(metadata["backbones"]))


def settings_of(storage: str, study: str) -> dict[str, Any]:
    """The settings that a study was opened with last, for a worker that joins it.

    Raises:
        StudyError: If there is no such study, or no search has opened it.
    """
    return optuna_engine.load_settings(optuna_engine.find_study(connect(storage), study)) | {"study": study}


def find_any_study(settings: Settings, name: str) -> tuple[StudyMetadata, list[tuple[float, Params]]]:
    """A study of either engine; the one of `settings` is asked first.

    Returns:
        Its facts, and score and point of every complete trial.

    Raises:
        MissingError: If neither has it.
        StudyError: If a storage cannot be opened.
    """
    try:
        return _looked_up(settings.engine, settings.storage, name)
    except MissingError:  # a storage that cannot be asked says nothing
        other = KERAS_TUNER if settings.engine == OPTUNA else OPTUNA
        if not _may_hold(other, name):
            raise
        return _looked_up(other, settings.storage, name)


def study_lock(prepared: StudyContext, seconds: float | None = None) -> AbstractContextManager[None]:
    """Let one process of this machine at a time start a trial or recover dead ones; see `interprocess_lock`."""
    settings = prepared.settings
    place = settings.storage if settings.engine == OPTUNA else str(keras_tuner_store.DIRECTORY)
    folder = "" if "://" in place and not place.startswith("sqlite") else Path.cwd()
    return interprocess_lock(f"the study {prepared.study} in {place} of {folder}", seconds)


def _looked_up(engine: str, storage: str, name: str) -> tuple[StudyMetadata, list[tuple[float, Params]]]:
    store = _STORES[engine]
    study = store.find_study(_place(engine, storage), name)
    return store.metadata_of(study), store.completed_trials(study)


def _may_hold(engine: str, name: str) -> bool:
    """Whether an engine that is not the study's own is worth asking: asking Optuna would make a database."""
    if engine == KERAS_TUNER:
        return name in keras_tuner_store.names(keras_tuner_store.DIRECTORY)
    return Path(Settings.storage.removeprefix("sqlite:///")).exists()


def _place(engine: str, storage: str, opened: Callable[[str], Any] = connect) -> Any:
    """Where an engine's studies are, as its store wants it."""
    return opened(storage) if engine == OPTUNA else keras_tuner_store.DIRECTORY


def _engine(prepared: StudyContext, study: Any, backbones: tuple[str, ...]) -> Engine:
    settings, space = prepared.settings, prepared.space(backbones)
    assert settings.sampler is not None  # preparing named one
    if settings.engine == KERAS_TUNER:
        return KerasTunerEngine(study, space, settings.sampler, settings.seed)
    steps = steps_per_fold(prepared.regime)
    return OptunaEngine(study, space, settings.sampler, settings.seed, prepared.pruner, steps)
