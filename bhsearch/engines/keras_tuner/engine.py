"""Studies in KerasTuner: its four oracles over the search space of a study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bhsearch.engines.base import Trial, is_ignored_on_resume, result_attributes
from bhsearch.engines.keras_tuner.journal import JournalEntry, KerasTunerStudy, load_costs, save_costs
from bhsearch.errors import StudyError
from bhsearch.objectives.base import IntermediateValue
from bhsearch.objectives.joint import Joints
from bhsearch.objectives.space import Parameter, Params
from bhsearch.runtime.processes import this_process
from bhsearch.states import COMPLETE, FAILED, PRUNED, RUNNING

if TYPE_CHECKING:
    from bhsearch.engines.keras_tuner.oracles import OracleDriver

SAMPLERS = ("bayesian", "random", "hyperband", "grid")


class KerasTunerEngine:
    """A KerasTuner study, opened for trials; see `Engine`.

    KerasTuner is imported only when the oracle proposes the first trial, because the import takes seconds.

    Args:
        study: Study returned by `open_study` or `find_study`.
        space: Parameters of the study.
        sampler: One of `SAMPLERS`.
        seed: Random seed of the study.
    """

    beat_seconds = None  # no heartbeat: trials run on this machine only, where their processes can be checked

    def __init__(self, study: KerasTunerStudy, space: Sequence[Parameter], sampler: str, seed: int) -> None:
        self._study, self._journal = study, study.journal
        self._space, self._sampler, self._seed = space, sampler, seed
        self._driver: OracleDriver | None = None

    def ask(
        self,
        point: Params | None = None,
        notes: dict[str, Any] | None = None,
        seconds_left: float = math.inf,  # noqa: ARG002
    ) -> Trial:
        """Start a trial with parameters from the oracle, or with given parameters; see `Engine.ask`.

        A trial with given parameters does not change the sequence of parameters that the oracle proposes, except that
        the Bayesian oracle learns from its score. A retry takes the position of the retried trial in this sequence.

        Hyperband sets the number of epochs of a trial according to its round. KerasTuner's Hyperband continues the best
        networks of a round in the next round; here they are trained from scratch, so that networks need not be saved.
        Hyperband's `tuner/initial_epoch` therefore has no effect.

        Raises:
            SearchExhausted: If the oracle has no more trials.
            StudyError: If the given parameters are not in the space.
        """
        kept = {"owner": this_process(), **(notes or {})}
        with self._journal.alone() as entries:
            entry = self._propose(entries) if point is None else self._given(point, kept, entries)
            entry = replace(entry, trial=replace(entry.trial, notes=kept))
            try:
                self._journal.start(entry)
            except BaseException:
                self._driver = None  # its oracle contains a trial that was not stored
                raise
        return entry.trial

    def _propose(self, entries: Sequence[JournalEntry]) -> JournalEntry:
        if self._driver is None:
            from bhsearch.engines.keras_tuner.oracles import OracleDriver

            self._driver = OracleDriver(self._space, self._sampler, self._seed)
        return self._driver.propose(entries)

    def _given(self, point: Params, notes: dict[str, Any], entries: Sequence[JournalEntry]) -> JournalEntry:
        wrong = [row.name for row in self._space if row.name not in point or not row.holds(point[row.name])]
        if wrong:
            found = ", ".join(f"{name}={point.get(name)}" for name in wrong)
            raise StudyError(f"The parameters {found} are not in the search space of the study.")
        trial = Trial(len(entries), RUNNING, {row.name: point[row.name] for row in self._space})
        first = entries[notes["retry_of"]] if "retry_of" in notes else None
        if first is None or not is_ignored_on_resume(first.trial) or trial.params != first.trial.params:
            return JournalEntry(trial)
        taken = any(
            (entry.sampler, entry.place) == (first.sampler, first.place) and not is_ignored_on_resume(entry.trial)
            for entry in entries
        )
        return JournalEntry(trial) if taken else replace(first, trial=trial)

    def report(self, number: int, report: IntermediateValue) -> bool:  # noqa: ARG002
        """Return False: KerasTuner has no pruner."""
        return False

    def prune(self, number: int, seconds: float) -> None:
        """End a trial as pruned."""
        self._journal.end(number, PRUNED, None, {"seconds": round(seconds, 4)})

    def complete(
        self,
        number: int,
        score: float,
        seconds: float,
        ends: tuple[float, float] | None = None,
        milliseconds: float | None = None,
    ) -> None:
        """End a trial as complete; see `Engine.complete`."""
        self._journal.end(number, COMPLETE, float(score), result_attributes(seconds, ends, milliseconds))

    def annotate(self, number: int, notes: dict[str, str]) -> None:
        """Do nothing: no user interface displays the journal."""

    def fail(self, number: int, reason: str, dead: bool = False) -> None:
        """End a trial as failed; see `Engine.fail`."""
        self._journal.end(number, FAILED, None, {"reason": reason} | ({"dead": True} if dead else {}))

    def beat(self, number: int) -> None:
        """Do nothing; see `beat_seconds`."""

    def stale(self) -> set[int]:
        """Return an empty set; see `beat_seconds`."""
        return set()

    def trials(self) -> list[Trial]:
        """Return all trials, ordered by number."""
        return [entry.trial for entry in self._journal.entries()]

    def costs(self) -> dict[str, Any]:
        """Return the stored costs; see `Engine.costs`."""
        return load_costs(self._study)

    def save_costs(self, costs: dict[str, Any]) -> None:
        """Store costs with the study."""
        save_costs(self._study, costs)

    def joints(self) -> Joints:
        """Return no joint backbones, which this engine does not support."""
        return {}

    def importances(self) -> dict[str, float]:
        """Return an empty dict: KerasTuner does not compute importances."""
        return {}

    def delete(self) -> None:
        """Delete the study."""
        self._study.delete()
