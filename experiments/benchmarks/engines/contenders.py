"""The searches that are compared, by name, each as the engine that a study would have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from optuna.storages import InMemoryStorage

from bhsearch.engines.base import Engine
from bhsearch.engines.keras_tuner import journal
from bhsearch.engines.keras_tuner.engine import KerasTunerEngine
from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.engines.registry import ENGINES
from bhsearch.objectives.space import Parameter, Params
from experiments.benchmarks.engines.points import frozen_points

OPTUNA, KERAS_TUNER = ENGINES.built_in

# A new study from its space, its seed, and a folder of its own for an engine that keeps files.
Make = Callable[[Sequence[Parameter], int, Path], Engine]
SHIPPED = "optuna tpe"
PLAIN_FIRST = f"{SHIPPED}, linear first"


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


def _of_frozen_regime(engine: str) -> tuple[str, ...]:
    """Return the samplers of an engine that need no parameter `epochs`."""
    store = ENGINES.get(engine)
    return tuple(name for name in store.samplers() if name not in store.capabilities.paced)


CONTENDERS: dict[str, Make] = {
    **{f"{OPTUNA} {name}": optuna_with(name) for name in _of_frozen_regime(OPTUNA)},
    **{f"{KERAS_TUNER} {name}": keras_tuner_with(name) for name in _of_frozen_regime(KERAS_TUNER)},
}


def plain_heads(space: Sequence[Parameter]) -> list[Params]:
    """Return the points without augmentation and with a linear head, path by path, the strongest penalty first."""
    points = [point.params for point in frozen_points(space)]
    return [params for params in points if params["policy"] == "none" and not params["hidden_units"]]


def best_points(scored: Sequence[tuple[float, Params]], number: int) -> list[Params]:
    """The best distinct points of a study, the best first."""
    found: list[Params] = []
    for _, params in sorted(scored, key=lambda pair: -pair[0]):
        if params not in found:
            found.append(params)
        if len(found) == number:
            break
    return found
