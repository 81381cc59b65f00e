"""Open a study in its engine's storage: to create or resume it, or, in a worker, to join it."""

from __future__ import annotations

import uuid
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

from bhsearch.config import Settings, portable
from bhsearch.engines.base import Engine, StoredStudy, StudyStore
from bhsearch.engines.registry import ENGINES
from bhsearch.errors import InputError, MissingError
from bhsearch.models.training.finetune import EVALS_PER_FOLD
from bhsearch.objectives.space import Params
from bhsearch.runtime.cache import interprocess_lock
from bhsearch.study.checks.plugins import check_parts, parts_of
from bhsearch.study.context import FINETUNE, StudyContext
from bhsearch.study.resume.metadata import NewMetadata, StudyMetadata, check_agreement
from bhsearch.study.resume.warm_start import origin_of, warm_points


def open_engine(prepared: StudyContext) -> tuple[StudyMetadata, Engine]:
    """Open a study, create it if it does not exist, and add the backbones that it does not have yet.

    Args:
        prepared: Context of the study.

    Returns:
        Metadata of the study, and an engine that is open for trials.

    Raises:
        StudyError: If the study was created with other data or settings.
    """
    settings = prepared.settings
    store = ENGINES.get(settings.engine)
    now = prepared.metadata()
    weights = {name: backbone.digest for name, backbone in prepared.backbones.items()}
    # Without the lock, two processes that create the tables or the study at the same time would fail.
    with interprocess_lock(f"the storage {settings.storage}"):
        try:
            return _opened(prepared, store, now, weights)
        except InputError:
            store.discard_if_new(settings.storage)
            raise


def _opened(
    prepared: StudyContext, store: StudyStore, now: NewMetadata, weights: dict[str, str]
) -> tuple[StudyMetadata, Engine]:
    settings = prepared.settings
    find = partial(find_any_study, settings)
    now["started_from"] = origin_of(prepared, find)
    now["warm"] = {"studies": list(settings.warm_start_from), "points": warm_points(prepared, find)}
    plugins = parts_of(settings, prepared.index.layout, {b.kind for b in prepared.found.backbones})
    if plugins:
        now["plugins"] = plugins
    created: StudyMetadata = {**now, "uid": uuid.uuid4().hex[:12], "backbones": weights}
    study = store.open(settings.storage, prepared.study, dict(created))
    held = cast(StudyMetadata, study.metadata())
    if held["started_from"].get("uid") == now["started_from"].get("uid"):
        now["started_from"] = held["started_from"]  # keep the heads, even if the frozen study has new trials
    if not settings.warm_start_from or held["warm"]["studies"] == now["warm"]["studies"]:
        now["warm"] = held["warm"]  # keep the points that the first command chose
    check_parts(prepared.study, held.get("plugins", {}), plugins)
    check_agreement(prepared.study, held, now, prepared.backbones)
    held.setdefault("task", now["task"])  # absent in studies of earlier versions
    names = (*held["backbones"], *(name for name in weights if name not in held["backbones"]))
    if len(names) > len(held["backbones"]):
        held["backbones"] = {name: weights[name] for name in names}
        if plugins:
            held["plugins"] = plugins
        choices = next(row.choices for row in prepared.space(names) if row.name == "backbone")
        study = study.add_backbones(dict(held), choices)
    study.save_settings(portable(settings))
    return held, _engine(prepared, study, names)


def join_engine(prepared: StudyContext, metadata: StudyMetadata) -> Engine:
    """Return an engine for a study that another process has created; waits while the storage is not available."""
    settings = prepared.settings
    study = ENGINES.get(settings.engine).find(settings.storage, prepared.study, patient=True)
    return _engine(prepared, study, tuple(metadata["backbones"]))


def settings_of(storage: str, study: str) -> dict[str, Any]:
    """Return the settings of the last command that opened a study, for a worker that joins the study by its database.

    Raises:
        MissingError: If the study does not exist.
        StudyError: If another program created the study.
    """
    return ENGINES.get(Settings.engine).find(storage, study).load_settings() | {"study": study}


def find_any_study(settings: Settings, name: str) -> tuple[StudyMetadata, list[tuple[float, Params]]]:
    """Find a study by name in the engine of `settings`, then in the other built-in engines.

    Returns:
        Metadata of the study, and the score and parameters of every complete trial.

    Raises:
        MissingError: If no engine has a study of this name.
        StudyError: If a storage cannot be opened.
    """
    try:
        study = ENGINES.get(settings.engine).find(settings.storage, name)
    except MissingError:  # after any other error, the study may still exist in this engine
        others = (ENGINES.get(other) for other in ENGINES.built_in if other != settings.engine)
        holder = next((store for store in others if name in store.names(Settings.storage)), None)
        if holder is None:
            raise
        study = holder.find(Settings.storage, name)
    return cast(StudyMetadata, study.metadata()), study.completed_trials()


def study_lock(prepared: StudyContext, seconds: float | None = None) -> AbstractContextManager[None]:
    """Return the lock for starting and recovering trials, which one process of this machine can hold at a time.

    Args:
        prepared: Context of the study.
        seconds: Time limit for acquiring the lock; None for no limit; see `interprocess_lock`.
    """
    settings = prepared.settings
    where = ENGINES.get(settings.engine).lock_key(settings.storage)
    return interprocess_lock(f"the study {prepared.study} in {where}", seconds)


def _engine(prepared: StudyContext, study: StoredStudy, backbones: tuple[str, ...]) -> Engine:
    settings = prepared.settings
    assert settings.sampler is not None  # `StudyContext.build` fills in the default
    return study.engine(
        prepared.space(backbones),
        settings.sampler,
        settings.seed,
        prepared.pruner,
        EVALS_PER_FOLD if prepared.regime == FINETUNE else 1,
    )
