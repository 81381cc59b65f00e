"""Which engine a study has, with which sampler, and what that engine cannot do."""

from __future__ import annotations

from dataclasses import replace

from bhsearch.config import Settings
from bhsearch.engines.keras_tuner import engine
from bhsearch.engines.optuna import samplers
from bhsearch.engines.optuna.url import check_storage
from bhsearch.errors import SettingsError

OPTUNA, KERAS_TUNER = "optuna", "keras-tuner"
# The samplers of each engine, its default first.
ENGINE_SAMPLERS: dict[str, tuple[str, ...]] = {
    OPTUNA: tuple(samplers.SAMPLERS),
    KERAS_TUNER: tuple(engine.SAMPLERS),
}


def with_sampler(settings: Settings) -> Settings:
    """Settings that name a sampler: the engine's default where none was given."""
    return settings if settings.sampler is not None else replace(settings, sampler=ENGINE_SAMPLERS[settings.engine][0])


def check_engine(
    engine: str,
    sampler: str | None = None,
    workers: int | None = None,
    pruner: str | None = None,
    storage: str = Settings.storage,
) -> None:
    """Refuse what an engine does not have.

    Args:
        engine: A key of `ENGINE_SAMPLERS`.
        sampler: None for its default.
        workers: Processes that run trials; None where none are asked for.
        pruner: None for the default of the regime.
        storage: Database URL.

    Raises:
        SettingsError: Saying what the engine has.
    """
    known = ENGINE_SAMPLERS[engine]
    if sampler is not None and sampler not in known:
        other = next((name for name, samplers in ENGINE_SAMPLERS.items() if sampler in samplers), None)
        hint = f" It is one of --engine {other}." if other is not None else ""
        raise SettingsError(f"--sampler must be one of {', '.join(known)} with {engine}, but got {sampler!r}.{hint}")
    if engine != KERAS_TUNER:
        check_storage(storage)
        return
    if workers is not None and workers > 1:
        raise SettingsError(
            f"--workers must be 0 or 1 with --engine keras-tuner, whose oracle is in one process, but got {workers}. "
            "For more workers leave out --engine."
        )
    if pruner not in (None, "none"):
        raise SettingsError(
            f"--pruner must be none with --engine keras-tuner, which has no pruner, but got {pruner!r}. "
            "Its way to spend less on bad points is --sampler hyperband."
        )
    if storage != Settings.storage:
        raise SettingsError(
            "--storage must be left out with --engine keras-tuner, whose studies lie in the folder keras_tuner of the "
            "working directory, but a database was given."
        )
