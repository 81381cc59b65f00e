"""The trials of a study as samplers see them while one trial is sampled."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from bhsearch.engines.optuna.storages.attributes import NewTrialStorage

_FIRST_ROWS = 64


class Observations:
    """Parameters, scores and states of trials in arrays, which TPE splits into good and other ones.

    The rows of the arrays are the numbers of the trials.

    Args:
        distributions: Distribution of each parameter.
        maximize: Whether the score is maximized.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], maximize: bool = True) -> None:
        self._distributions, self._sign = dict(distributions), -1.0 if maximize else 1.0
        self._state = np.full(_FIRST_ROWS, TrialState.FAIL, np.int8)
        # Trials are ranked by `_first`, then by `_second`, the best first. That is the score of a complete trial, and
        # the last step and its value of a pruned one.
        self._first, self._second = np.zeros(_FIRST_ROWS), np.zeros(_FIRST_ROWS)
        self._columns = {name: np.full(_FIRST_ROWS, np.nan) for name in self._distributions}
        self.n_finished = 0  # complete and pruned trials

    def put(self, trial: FrozenTrial) -> None:
        """Add a trial, or replace it if it had not finished; it must not be complete or pruned yet."""
        row = trial.number
        while row >= len(self._state):
            self._double()
        self._state[row] = trial.state
        self.n_finished += trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            self._first[row] = self._sign * trial.value
        elif trial.state == TrialState.PRUNED:
            self._first[row], self._second[row] = self._rank_of_pruned(trial)
        for name, column in self._columns.items():
            if name not in trial.params:
                continue
            with suppress(ValueError):  # not one of the choices; storing the next trial will fail
                column[row] = self._distributions[name].to_internal_repr(trial.params[name])

    def split(self, number: int, n_below: Callable[[int], int]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Split the trials as Optuna's TPE does, with running trials among the other ones ("constant liar").

        Args:
            number: Number of the trial that is sampled, which is left out.
            n_below: Returns the number of good trials, given the number of complete and pruned ones.

        Returns:
            Numbers of the good trials and of the other ones, each in ascending order.
        """
        complete, pruned, running = (
            np.flatnonzero(self._state == state)
            for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        )
        order = np.concatenate([self._ranked(complete), self._ranked(pruned)])
        n_good = n_below(len(order))
        others = np.concatenate([order[n_good:], running[running != number]])
        return np.sort(order[:n_good]), np.sort(others)

    def values(self, name: str, numbers: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """Return a parameter of some trials in Optuna's internal representation, without trials that lack it."""
        found: npt.NDArray[np.float64] = self._columns[name][numbers]
        return found[~np.isnan(found)]

    def _ranked(self, numbers: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        return numbers[np.lexsort((self._second[numbers], self._first[numbers]))]  # stable: of equals, the earlier one

    def _rank_of_pruned(self, trial: FrozenTrial) -> tuple[float, float]:
        if not trial.intermediate_values:
            return 1.0, 0.0
        step, value = max(trial.intermediate_values.items())
        return -float(step), math.inf if math.isnan(value) else self._sign * value

    def _double(self) -> None:
        n = len(self._state)
        self._state = np.concatenate([self._state, np.full(n, TrialState.FAIL, np.int8)])
        self._first = np.concatenate([self._first, np.zeros(n)])
        self._second = np.concatenate([self._second, np.zeros(n)])
        self._columns = {name: np.concatenate([old, np.full(n, np.nan)]) for name, old in self._columns.items()}


class ObservedStudy:
    """A study as samplers see it while one trial is sampled.

    Samplers of Optuna read the trials again for each parameter, to see trials that run at the same time. These matter
    no more while one trial is sampled than the trials that begin a moment later, so they are read once.

    Args:
        study: The study.
        storage: Storage of the new trial.
        trials: Trials of the study before the new one.
        observations: The same trials, for TPE.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: NewTrialStorage,
        trials: Sequence[FrozenTrial],
        observations: Observations,
    ) -> None:
        self._study, self._storage, self._trials, self.observations = study, storage, trials, observations

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,  # noqa: ARG002
    ) -> list[FrozenTrial]:
        found = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found
