"""Both engines, each opened as a process that has just started would, and a space that is small and has everything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bhsearch.engines.keras_tuner import storage as keras_tuner_store
from bhsearch.engines.keras_tuner.engine import KerasTunerEngine
from bhsearch.engines.optuna import engine as optuna_engine
from bhsearch.engines.optuna.engine import OptunaEngine
from bhsearch.engines.optuna.storage import connect
from bhsearch.engines.registry import ENGINE_SAMPLERS, KERAS_TUNER, OPTUNA
from bhsearch.objectives.space import frozen_space

BACKBONES = ("staintex-s", "staintex-l")
# A word, a truth, a number of three, a range on either scale, and whole numbers: what the whole space is made of.
# Small, since KerasTuner's Gaussian process wants three trials a parameter before it begins.
NAMES = ("backbone", "tta", "hidden_units", "dropout", "learning_rate", "epochs")
SPACE = tuple(row for row in frozen_space(BACKBONES) if row.name in NAMES)
FACTS = {"uid": "1", "backbones": dict.fromkeys(BACKBONES, "digest")}
CASES = [(engine, sampler) for engine, samplers in ENGINE_SAMPLERS.items() for sampler in samplers]
N_TRIALS = 21  # TPE starts to think at the sixteenth, the Gaussian process at the nineteenth


@dataclass(frozen=True)
class Place:
    """Where an engine keeps its studies.

    Attributes:
        engine: A key of `ENGINE_SAMPLERS`.
        storage: What its module connects to.
    """

    engine: str
    storage: str | Path

    @property
    def module(self) -> Any:
        return {OPTUNA: optuna_engine, KERAS_TUNER: keras_tuner_store}[self.engine]

    def study(self, name: str = "study", facts: dict[str, Any] = FACTS) -> Any:
        storage = self.storage if isinstance(self.storage, Path) else connect(self.storage)
        return self.module.open_study(storage, name, facts)

    def open(self, sampler: str, seed: int = 0, space: Any = SPACE, name: str = "study") -> Any:
        made = OptunaEngine if self.engine == OPTUNA else KerasTunerEngine
        return made(self.study(name), space, sampler, seed)


def score_of(params: dict[str, Any]) -> float:
    """Some smooth score, so that samplers that learn have something to learn."""
    return 0.5 + 0.1 * math.cos(math.log(params["learning_rate"])) + 0.1 * params["dropout"]


def one_trial(engine: Any) -> dict[str, Any]:
    """A trial from start to end. Returns its point."""
    trial = engine.ask()
    engine.complete(trial.number, score_of(trial.params), 0.1)
    return trial.params
