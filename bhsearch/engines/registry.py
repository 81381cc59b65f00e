"""The registry of engines by name, and a check that an engine supports the settings of a study."""

from __future__ import annotations

from dataclasses import replace

from bhsearch.config import Settings
from bhsearch.engines.base import StudyStore
from bhsearch.engines.optuna.registry import SAMPLERS
from bhsearch.errors import SettingsError
from bhsearch.plugins import Registry, UnknownPartError

ENGINES: Registry[StudyStore] = Registry("bhsearch.engines", "--engine")


def with_sampler(settings: Settings) -> Settings:
    """Return the settings, with the engine's default sampler filled in if they name no sampler."""
    if settings.sampler is not None:
        return settings
    return replace(settings, sampler=ENGINES.get(settings.engine).samplers()[0])


def check_engine(
    engine: str,
    sampler: str | None = None,
    workers: int | None = None,
    pruner: str | None = None,
    storage: str = Settings.storage,
) -> None:
    """Check that an engine supports the given settings.

    Args:
        engine: Name of the engine.
        sampler: Name of the sampler; None for the engine's default.
        workers: Number of processes that run trials; None for the default.
        pruner: Name of the pruner; None for the default of the regime.
        storage: Database URL.

    Raises:
        UnknownPartError: If no engine of this name exists, or the engine has no sampler of this name.
        SettingsError: If the pruner is unknown, or the engine does not support a setting.
    """
    if pruner is not None:
        from bhsearch.engines.optuna.pruners import check_pruner  # imports Optuna

        check_pruner(pruner)
    store = ENGINES.get(engine)
    supports = store.capabilities
    if sampler is not None and sampler not in store.samplers():
        raise _unknown_sampler(store, sampler)
    if supports.uses_database:
        store.check(storage)
    elif storage != Settings.storage:
        raise _unsupported(store, "storage", "left out", "a database was given")
    if not supports.parallel and workers is not None and workers > 1:
        raise _unsupported(store, "workers", "0 or 1", f"got {workers}")
    if not supports.prunes and pruner not in (None, "none"):
        raise _unsupported(store, "pruner", "none", f"got {pruner!r}")


def _unknown_sampler(store: StudyStore, sampler: str) -> UnknownPartError:
    others = [name for name in ENGINES.built_in if sampler in ENGINES.get(name).samplers()]
    hint = f" It is a sampler of --engine {others[0]}." if others else ""
    known = ", ".join(store.samplers())
    message = f"--sampler must be one of {known} with --engine {store.name}, but got {sampler!r}.{hint}"
    return UnknownPartError(message, SAMPLERS.group, sampler)


def _unsupported(store: StudyStore, option: str, rule: str, value: str) -> SettingsError:
    advice = store.capabilities.advice.get(option, "")
    return SettingsError(f"--{option} must be {rule} with --engine {store.name}, but {value}.{advice and ' '}{advice}")
