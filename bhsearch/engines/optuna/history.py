"""What an engine knows of the trials of its study, kept from one read of the storage to the next."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from bhsearch.engines.base import Trial, is_ignored_on_resume
from bhsearch.engines.optuna.observations import Observations
from bhsearch.engines.optuna.storages.attributes import notes_of
from bhsearch.engines.optuna.untried import TriedPoints
from bhsearch.objectives.space import Parameter, Params
from bhsearch.states import COMPLETE, FAILED, PRUNED, RUNNING

_STATES = {
    TrialState.COMPLETE: COMPLETE,
    TrialState.PRUNED: PRUNED,
    TrialState.FAIL: FAILED,
    TrialState.RUNNING: RUNNING,
    TrialState.WAITING: RUNNING,
}


class TrialHistory:
    """The trials of a study, and what the next proposal needs to know of them.

    Finished trials never change in Optuna's storage, so an update costs as much as there are new and unfinished trials.

    Args:
        space: Parameters of the study.
        distributions: Their distributions by name.

    Attributes:
        observations: Trials as arrays, for TPE.
    """

    def __init__(self, space: Sequence[Parameter], distributions: Mapping[str, BaseDistribution]) -> None:
        self.observations = Observations(distributions)
        self._lock = threading.Lock()
        self._records: list[Trial] = []
        self._unfinished: dict[int, FrozenTrial] = {}
        self._n_done = 0
        self._tried_by_finished = TriedPoints(space)
        self._points: set[frozenset[tuple[str, object]]] = set()

    def update(self, trials: Sequence[FrozenTrial]) -> list[Trial]:
        """Take over the trials that are new or had not finished at the last update.

        Args:
            trials: All trials of the study, ordered by number.

        Returns:
            Records of all trials, ordered by number.
        """
        with self._lock:
            again = [number for number in self._unfinished if number < len(trials)]
            new = range(len(self._records), len(trials))
            self._records += [_record(trials[number]) for number in new]
            for number in (*again, *new):
                self._take_over(trials[number])
            return list(self._records)

    def _take_over(self, trial: FrozenTrial) -> None:
        record = self._records[trial.number] = _record(trial)
        self.observations.put(trial)
        if not trial.state.is_finished():
            self._unfinished[trial.number] = trial
            return
        self._unfinished.pop(trial.number, None)
        if not is_ignored_on_resume(record):
            self._n_done += 1
            self._tried_by_finished.add(record.params)
            self._points.add(_point(record.params))

    @property
    def n_done(self) -> int:
        """Number of finished trials, without those for which `is_ignored_on_resume` is true."""
        return self._n_done

    @property
    def n_running(self) -> int:
        """Number of unfinished trials."""
        return len(self._unfinished)

    @property
    def has_waiting(self) -> bool:
        """Whether a user has enqueued a trial that has not begun."""
        return any(trial.state == TrialState.WAITING for trial in self._unfinished.values())

    def has_tried(self, point: Params) -> bool:
        """Return whether a trial with these parameters has been started; see `is_ignored_on_resume`."""
        return _point(point) in self._points or any(trial.params == point for trial in self._unfinished.values())

    def ended(self) -> list[tuple[Params, float | None]]:
        """Return parameters and score of the trials that have ended, ordered by number; see `is_ignored_on_resume`.

        A trial that is not complete has no score.
        """
        return [
            (record.params, record.value)
            for record in self._records
            if record.number not in self._unfinished and not is_ignored_on_resume(record)
        ]

    def tried(self) -> TriedPoints:
        """Return the points of earlier and running trials; see `is_ignored_on_resume`."""
        tried = self._tried_by_finished.copy()
        for trial in self._unfinished.values():
            tried.add(trial.params)
        return tried

    def tried_params(self) -> list[Params]:
        """Return the parameters of earlier and running trials; see `is_ignored_on_resume`."""
        return [record.params for record in self._records if not is_ignored_on_resume(record)]


def _record(trial: FrozenTrial) -> Trial:
    value = trial.value if trial.state == TrialState.COMPLETE else None
    waiting = {"waiting": True} if trial.state == TrialState.WAITING else {}
    return Trial(trial.number, _STATES[trial.state], trial.params, value, notes_of(trial) | waiting)


def _point(params: Params) -> frozenset[tuple[str, object]]:
    return frozenset(params.items())
