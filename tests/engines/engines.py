"""Every engine, opened as a process that has just started would, and a space that is small and has everything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bhsearch.engines.base import Engine, StoredStudy, StudyStore
from bhsearch.engines.registry import ENGINES
from bhsearch.objectives.space import Parameter

BACKBONES = ("staintex-s", "staintex-l")
# A parameter of every kind: choices of text, booleans and numbers, ranges on both scales, integers, and a step.
# Small, since KerasTuner's Gaussian process wants three trials a parameter before it begins.
_OTHERS = (
    Parameter("tta", "", False, (False, True)),
    Parameter("hidden_units", "", 0, (0, 16, 64)),
    Parameter("dropout", "", 0.0, low=0.0, high=0.6),
    Parameter("learning_rate", "", 0.01, low=1e-3, high=1e-1, log=True),
    Parameter("epochs", "", 20, low=5, high=60, log=True, whole=True),
    Parameter("log10_penalty", "", 1.0, low=-1.0, high=3.5, step=0.5),
)
SPACE = (Parameter("backbone", "", "", BACKBONES), *_OTHERS)
FACTS = {"uid": "1", "backbones": dict.fromkeys(BACKBONES, "digest")}
CASES = [(engine, sampler) for engine in ENGINES for sampler in ENGINES.get(engine).samplers()]
N_TRIALS = 24  # TPE starts to think at the sixteenth, the Gaussian process at the twenty-second


def space_of(backbones: tuple[str, ...]) -> tuple[Parameter, ...]:
    """Return the space with other backbones."""
    return (Parameter("backbone", "", "", backbones), *_OTHERS)


@dataclass(frozen=True)
class Place:
    """Where an engine keeps its studies. An engine without a database uses the working directory.

    Attributes:
        engine: Name of the engine.
        storage: Database URL.
    """

    engine: str
    storage: str

    @property
    def store(self) -> StudyStore:
        return ENGINES.get(self.engine)

    def study(self, name: str = "study", facts: dict[str, Any] = FACTS) -> StoredStudy:
        return self.store.open(self.storage, name, facts)

    def open(self, sampler: str, seed: int = 0, space: Any = SPACE, name: str = "study") -> Engine:
        return self.study(name).engine(space, sampler, seed)


def score_of(params: dict[str, Any]) -> float:
    """Some smooth score, so that samplers that learn have something to learn."""
    return 0.5 + 0.1 * math.cos(math.log(params["learning_rate"])) + 0.1 * params["dropout"]


def one_trial(engine: Any) -> dict[str, Any]:
    """A trial from start to end. Returns its point."""
    trial = engine.ask()
    engine.complete(trial.number, score_of(trial.params), 0.1)
    return trial.params
