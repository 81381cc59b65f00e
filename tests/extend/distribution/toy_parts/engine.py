"""An engine: random search, one JSON file a study, replaced in one step while a lock is held."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bhsearch.engines.base import Capabilities, Trial, TrialAlreadyEnded, is_ignored_on_resume, result_attributes
from bhsearch.errors import MissingError, StudyError
from bhsearch.objectives.base import IntermediateValue
from bhsearch.objectives.space import Parameter, Params
from bhsearch.runtime.locks import lock
from bhsearch.runtime.processes import this_process
from bhsearch.states import COMPLETE, FAILED, PRUNED, RUNNING

_FOLDER = Path("toy_studies")


class ToyStudy:
    """A study in its file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> dict[str, Any]:
        return json.loads(self.file.read_text(encoding="utf-8"))

    @contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """Give the block the study's record alone, and store it afterwards."""
        with lock(self.file.with_suffix(".lock")):
            record = self.read()
            yield record
            self.write(record)

    def write(self, record: dict[str, Any]) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(record), encoding="utf-8")
        new.replace(self.file)

    def metadata(self) -> dict[str, Any]:
        return self.read()["metadata"]

    def save_settings(self, settings: dict[str, Any]) -> None:
        with self.changing() as record:
            record["settings"] = settings

    def load_settings(self) -> dict[str, Any]:
        return self.read()["settings"]

    def completed_trials(self) -> list[tuple[float, Params]]:
        trials = (Trial(**trial) for trial in self.read()["trials"])
        return [(trial.value, trial.params) for trial in trials if trial.value is not None]

    def add_backbones(self, metadata: dict[str, Any], backbones: Sequence[str]) -> ToyStudy:
        with self.changing() as record:
            if any(trial["state"] == RUNNING for trial in record["trials"]):
                raise StudyError(
                    f"Cannot add backbones to the study {self.file.stem!r} while another command runs its trials."
                )
            record["metadata"] = metadata
        return self

    def engine(
        self, space: Sequence[Parameter], sampler: str, seed: int, pruner: str = "none", steps_per_fold: int = 1
    ) -> ToyEngine:
        return ToyEngine(self, space, seed)


class ToyEngine:
    """A study with its space."""

    beat_seconds = None

    def __init__(self, study: ToyStudy, space: Sequence[Parameter], seed: int) -> None:
        self._study, self._space, self._seed = study, space, seed

    def trials(self) -> list[Trial]:
        return [Trial(**trial) for trial in self._study.read()["trials"]]

    def ask(
        self, point: Params | None = None, notes: dict[str, Any] | None = None, seconds_left: float = math.inf
    ) -> Trial:
        with self._study.changing() as record:
            place = sum(not is_ignored_on_resume(Trial(**trial)) for trial in record["trials"])
            source = random.Random(f"{self._seed}/{place}")
            params = point or {row.name: _sampled(row, source) for row in self._space}
            kept = {"owner": this_process(), **(notes or {})}
            trial = Trial(len(record["trials"]), RUNNING, params, notes=kept)
            record["trials"].append(asdict(trial))
        return trial

    def report(self, number: int, report: IntermediateValue) -> bool:
        return False

    def complete(
        self,
        number: int,
        score: float,
        seconds: float,
        ends: tuple[float, float] | None = None,
        milliseconds: float | None = None,
    ) -> None:
        self._end(number, COMPLETE, float(score), result_attributes(seconds, ends, milliseconds))

    def prune(self, number: int, seconds: float) -> None:
        self._end(number, PRUNED, None, {"seconds": round(seconds, 4)})

    def fail(self, number: int, reason: str, dead: bool = False) -> None:
        self._end(number, FAILED, None, {"reason": reason} | ({"dead": True} if dead else {}))

    def _end(self, number: int, state: str, value: float | None, notes: dict[str, Any]) -> None:
        with self._study.changing() as record:
            trial = record["trials"][number]
            if trial["state"] == RUNNING:
                trial |= {"state": state, "value": value, "notes": trial["notes"] | notes}
            elif (trial["state"], trial["value"]) != (state, value):
                raise TrialAlreadyEnded

    def annotate(self, number: int, notes: dict[str, str]) -> None:
        """Nobody looks at the file."""

    def beat(self, number: int) -> None:
        """All workers are on one host."""

    def stale(self) -> set[int]:
        return set()

    def costs(self) -> dict[str, Any]:
        return self._study.read().get("costs", {})

    def save_costs(self, costs: dict[str, Any]) -> None:
        with self._study.changing() as record:
            record["costs"] = costs

    def joints(self) -> dict[str, list[str]]:
        return {}

    def importances(self) -> dict[str, float]:
        return {}

    def delete(self) -> None:
        self._study.file.unlink()


class ToyStore:
    """Studies in a folder of the working directory."""

    name = "toy"
    title = "Toy"
    capabilities = Capabilities(prunes=False, parallel=True, uses_database=False)

    def samplers(self) -> tuple[str, ...]:
        return ("uniform",)

    def sampler_source(self, name: str) -> None:
        return None

    def check(self, storage: str) -> None:
        """Nothing is stored there."""

    def location(self, storage: str) -> str:
        return f"{_FOLDER}/"

    def lock_key(self, storage: str) -> str:
        return str(_FOLDER.absolute())

    def open(self, storage: str, name: str, metadata: dict[str, Any]) -> ToyStudy:
        _FOLDER.mkdir(exist_ok=True)
        study = ToyStudy((_FOLDER / f"{name}.json").absolute())
        if not study.file.exists():
            study.write({"metadata": metadata, "settings": {}, "trials": []})
        return study

    def find(self, storage: str, name: str, patient: bool = False) -> ToyStudy:
        if name not in self.names(storage):
            known = ", ".join(self.names(storage)) or "none"
            raise MissingError(f"There is no study {name!r} in {_FOLDER}. Existing studies: {known}.")
        return ToyStudy((_FOLDER / f"{name}.json").absolute())

    def names(self, storage: str) -> list[str]:
        return sorted(file.stem for file in _FOLDER.glob("*.json"))

    def discard_if_new(self, storage: str) -> None:
        """The folder does no harm."""


def _sampled(row: Parameter, source: random.Random) -> Any:
    if row.choices:
        return source.choice(row.choices)
    if row.step:
        return source.choice(row.values)
    low, high = (math.log(row.low), math.log(row.high)) if row.log else (row.low, row.high)
    value = source.uniform(low, high)
    value = min(max(math.exp(value) if row.log else value, row.low), row.high)
    return round(value) if row.whole else value


STORE = ToyStore()
