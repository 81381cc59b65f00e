"""KerasTuner as the engine: its four oracles on the space that Optuna searches, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bhsearch.engines.base import Trial, is_ignored_on_resume, result_attributes
from bhsearch.engines.keras_tuner.storage import JournalEntry, KerasTunerStudy
from bhsearch.errors import StudyError
from bhsearch.objectives.base import IntermediateValue
from bhsearch.objectives.space import Parameter, Params
from bhsearch.runtime.processes import this_process
from bhsearch.states import COMPLETE, FAILED, PRUNED, RUNNING

if TYPE_CHECKING:
    from bhsearch.engines.keras_tuner.oracles import OracleDriver

SAMPLERS = ("bayesian", "random", "hyperband", "grid")


class KerasTunerEngine:
    """One study in KerasTuner's folder.

    KerasTuner is imported when the first trial is asked for. Looking at a study and ending its trials need none of it.

    Args:
        study: From `open_study`.
        space: Its parameters.
        sampler: One of `SAMPLERS`.
        seed: The study's seed.
    """

    beat_seconds = None  # its workers are all on one machine, where it can be seen whether they live

    def __init__(self, study: KerasTunerStudy, space: Sequence[Parameter], sampler: str, seed: int) -> None:
        self._study, self._journal = study, study.journal
        self._space, self._sampler, self._seed = space, sampler, seed
        self._driver: OracleDriver | None = None

    def ask(self, point: Params | None = None, notes: dict[str, Any] | None = None) -> Trial:
        """Start a trial, at a point that the oracle chooses where none is given; see `Engine.ask`.

        A given point has no place in the oracle's own sequence, which goes on as if it had not been; the Gaussian
        process learns from its score all the same. But what runs a dead trial again takes that trial's place.

        Hyperband gives a trial the epochs of its round. A trial that goes on from one of the round before is trained
        from the start: an objective that resumes would have to keep every network of a round. So what Hyperband calls
        `tuner/initial_epoch` saves nothing here.

        Raises:
            Exhausted: If the oracle has no more trials.
            StudyError: If the given point is not in the space.
        """
        kept = {"owner": this_process(), **(notes or {})}
        with self._journal.alone() as entries:
            entry = self._propose(entries) if point is None else self._given(point, kept, entries)
            entry = replace(entry, trial=replace(entry.trial, notes=kept))
            try:
                self._journal.start(entry)
            except BaseException:
                self._driver = None  # it remembers a trial that there is not
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
            raise StudyError(f"A given point must be in the space, but has {found}.")
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
        """KerasTuner has no pruner."""
        return False

    def prune(self, number: int, seconds: float) -> None:
        """End a trial that was pruned, by whomever."""
        self._journal.end(number, PRUNED, None, {"seconds": round(seconds, 4)})

    def complete(self, number: int, score: float, seconds: float, ends: tuple[float, float] | None = None) -> None:
        """End a trial with its score, and the ends of its interval where they are known."""
        self._journal.end(number, COMPLETE, float(score), result_attributes(seconds, ends))

    def annotate(self, number: int, notes: dict[str, str]) -> None:
        """Nothing: nobody looks at the journal."""

    def fail(self, number: int, reason: str, dead: bool = False) -> None:
        """End a trial without a score; `dead` where its process died, so that it will be run again."""
        self._journal.end(number, FAILED, None, {"reason": reason} | ({"dead": True} if dead else {}))

    def beat(self, number: int) -> None:
        """Nobody needs to hear it."""

    def stale(self) -> set[int]:
        """None: see `beat_seconds`."""
        return set()

    def trials(self) -> list[Trial]:
        """All trials, by number."""
        return [entry.trial for entry in self._journal.entries()]

    def importances(self) -> dict[str, float]:
        """Unknown: KerasTuner has none."""
        return {}

    def delete(self) -> None:
        """Delete the study."""
        self._study.delete()
