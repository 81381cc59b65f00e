"""The searches that are compared, by name, each as the engine that a study would have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import InMemoryStorage

from bhsearch.engines.base import Engine
from bhsearch.engines.keras_tuner import journal
from bhsearch.engines.keras_tuner.engine import KerasTunerEngine
from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.engines.registry import ENGINES
from bhsearch.objectives.space import Parameter, Params

OPTUNA, KERAS_TUNER = ENGINES.built_in

# A new study from its space, its seed, and a folder of its own for an engine that keeps files.
Make = Callable[[Sequence[Parameter], int, Path], Engine]
SHIPPED = "optuna tpe"


def optuna_with(sampler: str) -> Make:
    """A study of ours with one of its samplers."""

    def make(space: Sequence[Parameter], seed: int, _: Path) -> Engine:
        return OptunaEngine(open_study(InMemoryStorage(), "replay", {}), space, sampler, seed)

    return make


def keras_tuner_with(oracle: str) -> Make:
    """A study in KerasTuner with one of its oracles."""

    def make(space: Sequence[Parameter], seed: int, folder: Path) -> Engine:
        return KerasTunerEngine(journal.open_study(folder, "replay", {}), space, oracle, seed)

    return make


class Variant(OptunaEngine):
    """Our engine with a sampler that is not shipped, to find out what a change would bring.

    Args:
        space: Of the study.
        seed: Of the study.
        sampler: As in `ENGINES`.
    """

    def __init__(self, space: Sequence[Parameter], seed: int, sampler: Callable[[int, int, int], BaseSampler]) -> None:
        super().__init__(open_study(InMemoryStorage(), "replay", {}), space, "tpe", seed)
        self._variant = sampler

    def _next_sampler(self, done: int, running: int) -> BaseSampler:
        return self._variant(_seed(self._seed, running, done), self._seed, done + running)


def _seed(seed: int, running: int, done: int) -> int:
    return (seed * 1_000_003 + running * 10_007 + done * 101) % 2**32


def variant(sampler: Callable[[int, int, int], BaseSampler]) -> Make:
    """A study of ours with another sampler."""

    def make(space: Sequence[Parameter], seed: int, _: Path) -> Engine:
        return Variant(space, seed, sampler)

    return make


def _joint(seed: int, _: int, __: int) -> BaseSampler:
    """Our default before: over joint densities, after 15 random trials."""
    return TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=15)


CONTENDERS: dict[str, Make] = {
    **{f"{OPTUNA} {name}": optuna_with(name) for name in ENGINES.get(OPTUNA).samplers()},
    f"{OPTUNA} tpe joint": variant(_joint),
    **{f"{KERAS_TUNER} {name}": keras_tuner_with(name) for name in ENGINES.get(KERAS_TUNER).samplers()},
}


def best_points(scored: Sequence[tuple[float, Params]], number: int) -> list[Params]:
    """The best distinct points of a study, the best first."""
    found: list[Params] = []
    for _, params in sorted(scored, key=lambda pair: -pair[0]):
        if params not in found:
            found.append(params)
        if len(found) == number:
            break
    return found
