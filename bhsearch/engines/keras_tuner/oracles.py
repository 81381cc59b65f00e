"""KerasTuner's oracles, whose state is rebuilt from the trials of a study.

An oracle chooses the parameters of trials. KerasTuner's `Tuner` is not used, because it would also build a network for
every trial. The state of an oracle is rebuilt from the stored trials, so that a resumed study continues like an
uninterrupted one. KerasTuner itself cannot restore the position in a grid or the random state of the Gaussian process.

Importing this module imports Keras, which takes seconds.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from sklearn.gaussian_process import GaussianProcessRegressor
from threadpoolctl import ThreadpoolController

from bhsearch.engines.base import SearchExhausted, Trial, is_ignored_on_resume
from bhsearch.engines.keras_tuner.journal import JournalEntry
from bhsearch.models import backend
from bhsearch.objectives.space import Parameter, Params
from bhsearch.states import COMPLETE, RUNNING

backend.import_backend()
with backend.silence_stderr(), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from keras_tuner import HyperParameters, Objective
    from keras_tuner.engine.trial import Trial as OracleTrial
    from keras_tuner.oracles import (
        BayesianOptimizationOracle,
        GridSearchOracle,
        HyperbandOracle,
        RandomSearchOracle,
    )

_THREADS = ThreadpoolController()
_SCORE = "score"
_EPOCHS, _ROUND, _PAST = "tuner/epochs", "tuner/round", "tuner/trial_id"  # values that Hyperband adds to a point
_OWN = "tuner/"


class _StatelessOracle:
    """A mixin for oracles that disables files and retries, and sets a new random seed for each trial."""

    study_seed: int

    def save(self) -> None:
        """Do nothing: the journal stores all trials."""

    def _save_trial(self, trial: Any) -> None:
        """Do nothing: the journal stores all trials."""

    def _check_consecutive_failures(self) -> None:
        """Do nothing: the study, not the engine, stops after too many failures in a row."""

    def seed_for(self, place: int) -> None:
        """Seed the random numbers of the trial at a position of the sequence, from 0."""
        digest = hashlib.sha256(f"{self.study_seed}/{place}".encode()).digest()
        self._seed_state = int.from_bytes(digest[:6], "big")

    def replay(self, trial_id: str, values: Params) -> None:
        """Apply the change of state that proposing this trial caused to a new oracle."""


class _Random(_StatelessOracle, RandomSearchOracle):  # type: ignore[misc]
    pass


class _FastGaussianProcess(GaussianProcessRegressor):  # type: ignore[misc]
    """scikit-learn's Gaussian process without input validation.

    The oracle calls `predict` thousands of times per trial, for one point at a time, so that validation would take most
    of its time.
    """

    def predict(self, X: Any, return_std: bool = False, return_cov: bool = False) -> Any:
        """Return mean and standard deviation, computed as in scikit-learn."""
        if return_cov or not return_std or not hasattr(self, "X_train_"):
            return super().predict(X, return_std, return_cov)
        kernel = self.kernel_(X, self.X_train_)
        mean = self._y_train_std * (kernel @ self.alpha_) + self._y_train_mean
        part = solve_triangular(self.L_, kernel.T, lower=True, check_finite=False)
        variance = np.clip(self.kernel_.diag(X) - np.einsum("ij,ij->j", part, part), 0.0, None)
        return mean, np.sqrt(variance * self._y_train_std**2)


class _Bayesian(_StatelessOracle, BayesianOptimizationOracle):  # type: ignore[misc]
    def seed_for(self, place: int) -> None:
        """Seed the random start points of the optimiser, and replace the fitted Gaussian process by a new one."""
        super().seed_for(place)
        self._random_state = np.random.RandomState(self._seed_state % 2**32)  # KerasTuner requires this legacy type
        self.gpr = self._make_gpr()

    def populate_space(self, trial_id: str) -> Any:
        """Propose a point on one thread; on matrices this small, a second thread is several times slower."""
        with _THREADS.limit(limits=1, user_api="blas"):
            return super().populate_space(trial_id)

    def _make_gpr(self) -> Any:
        return _FastGaussianProcess(**super()._make_gpr().get_params(deep=False))


class _Hyperband(_StatelessOracle, HyperbandOracle):  # type: ignore[misc]
    def __init__(self, least: int, **options: Any) -> None:
        super().__init__(**options)
        # KerasTuner's brackets go down to 1 epoch; here, the minimum is the lower bound of the parameter `epochs`.
        self.min_epochs = least
        self._current_bracket = self._get_num_brackets() - 1
        self._brackets: list[dict[str, Any]] = []
        self._start_new_bracket()

    def replay(self, trial_id: str, values: Params) -> None:
        """Add the trial to the bracket of the trial that it continues, or to the first bracket that is not full."""
        self._remove_completed_brackets()
        past, step = values.get(_PAST), values[_ROUND]
        rounds = self._room() if past is None else self._behind(past, step)
        rounds[step].append({"past_id": past, "id": trial_id})

    def _room(self) -> list[list[dict[str, Any]]]:
        for bracket in self._brackets:
            if len(bracket["rounds"][0]) < self._get_size(bracket["bracket_num"], 0):
                return bracket["rounds"]  # type: ignore[no-any-return]
        self._increment_bracket_num()
        self._start_new_bracket()
        return self._brackets[-1]["rounds"]  # type: ignore[no-any-return]

    def _behind(self, past: str, step: int) -> list[list[dict[str, Any]]]:
        for bracket in self._brackets:
            rounds: list[list[dict[str, Any]]] = bracket["rounds"]
            if step < len(rounds) and any(info["id"] == past for info in rounds[step - 1]):
                return rounds
        raise ValueError(f"Found no Hyperband bracket that contains trial {past} in the round before round {step}.")


class _Grid(_StatelessOracle, GridSearchOracle):  # type: ignore[misc]
    def replay(self, trial_id: str, values: Params) -> None:  # noqa: ARG002
        """Append the trial to the grid, which grows only at its end because the space is fixed."""
        last = self.start_order[-1] if self.start_order else None
        self._ordered_ids.insert(trial_id, last)
        self._populate_next = [trial_id] if last is None else []

    def end_trial(self, trial: Any) -> None:
        """End a trial; a trial with given parameters has no position in the grid, and so no successor."""
        super().end_trial(trial)
        if trial.trial_id not in self._ordered_ids._data_to_index:
            self._populate_next.remove(trial.trial_id)


class OracleDriver:
    """An oracle that is kept in step with the trials of a study and proposes the next one.

    Args:
        space: Parameters of the study.
        sampler: One of `engine.SAMPLERS`.
        seed: Random seed of the study.
    """

    def __init__(self, space: Sequence[Parameter], sampler: str, seed: int) -> None:
        self._space, self._sampler, self._seed = space, sampler, seed
        # Hyperband sets the epochs itself, so the parameter `epochs` is not sampled.
        self._paced = sampler == "hyperband"
        self._sampled = [row for row in space if not (self._paced and row.name == "epochs")]
        self._oracle: Any = None
        self._known: list[JournalEntry] = []  # trials that were added to the oracle, with their last known state

    def propose(self, entries: Sequence[JournalEntry]) -> JournalEntry:
        """Propose the next trial, and return its journal entry, without notes.

        Args:
            entries: All trials of the study so far.

        Raises:
            SearchExhausted: If the oracle has no more trials.
        """
        place = sum(entry.sampler == self._sampler and not is_ignored_on_resume(entry.trial) for entry in entries)
        with _quiet():
            self._tell(entries)
            self._oracle.seed_for(place)
            chosen = self._oracle.create_trial(_id(len(entries)))
            if chosen.status != "RUNNING":
                self._oracle = None
                raise SearchExhausted(_EXHAUSTED[chosen.status].format(self._sampler))
            values = chosen.hyperparameters.values
            params = {row.name: _typed(row, values[self._name(row)]) for row in self._space}
            # The optimiser of the Gaussian process may return a value slightly outside the range.
            values.update({row.name: params[row.name] for row in self._sampled})
            self._oracle._record_values(chosen)
        extra = {name: value for name, value in values.items() if name.startswith(_OWN)}
        made = JournalEntry(Trial(len(entries), RUNNING, params), self._sampler, place, extra)
        self._known.append(made)
        return made

    def _name(self, row: Parameter) -> str:
        return _EPOCHS if self._paced and row.name == "epochs" else row.name

    def _tell(self, entries: Sequence[JournalEntry]) -> None:
        """Update the oracle to the state after these trials."""
        for known, entry in zip(self._known, entries, strict=False):
            if entry.trial.state != known.trial.state and is_ignored_on_resume(entry.trial):
                self._oracle = None  # an oracle cannot forget a trial, so a new oracle is needed
        if self._oracle is None:
            self._oracle, self._known = self._make(), []
        for number, entry in enumerate(entries):
            known_state = self._known[number].trial.state if number < len(self._known) else None
            if known_state is None:
                self._add(entry)
            if (
                known_state in (None, RUNNING)
                and entry.trial.state != RUNNING
                and not is_ignored_on_resume(entry.trial)
            ):
                self._end(entry)
        self._known = list(entries)

    def _add(self, entry: JournalEntry) -> None:
        """Add a stored trial to the oracle: one of an earlier session, of another oracle, or with given parameters."""
        oracle, trial = self._oracle, entry.trial
        mine = entry.sampler == self._sampler
        space = copy(oracle.hyperparameters)
        space.values = {row.name: trial.params[row.name] for row in self._sampled} | (entry.extra if mine else {})
        made = OracleTrial(space, _id(trial.number), "RUNNING")
        oracle.trials[made.trial_id] = made
        if is_ignored_on_resume(trial):
            made.status = "FAILED"  # the oracle must not learn from this trial or count it
            return
        oracle._record_values(made)
        oracle.ongoing_trials[made.trial_id] = made
        if mine:
            oracle.replay(made.trial_id, space.values)
            oracle.start_order.append(made.trial_id)

    def _end(self, entry: JournalEntry) -> None:
        """End a trial in the oracle: with its score if complete, as failed in all other cases."""
        oracle, trial = self._oracle, self._oracle.trials[_id(entry.trial.number)]
        if entry.trial.state == COMPLETE:
            oracle.update_trial(trial.trial_id, {_SCORE: entry.trial.value})
        trial.status = "COMPLETED" if entry.trial.state == COMPLETE else "FAILED"
        oracle.end_trial(trial)

    def _make(self) -> Any:
        digest = hashlib.sha256(f"{self._seed}".encode()).digest()
        options: dict[str, Any] = {
            "objective": Objective(_SCORE, "max"),
            "hyperparameters": _translated(self._sampled),
            "allow_new_entries": False,
            "seed": int.from_bytes(digest[:4], "big") // 2 + 1,  # never 0, which KerasTuner replaces by a random seed
        }
        oracle: Any
        if self._paced:
            epochs = next(row for row in self._space if row.name == "epochs")
            # None means unlimited iterations; KerasTuner's default is 1.
            pace: dict[str, Any] = {"max_epochs": int(epochs.high), "hyperband_iterations": None}
            oracle = _Hyperband(int(epochs.low), **pace, **options)
        else:
            oracle = _ORACLES[self._sampler](max_trials=None, **options)
        oracle.verbose = 0
        oracle.study_seed = self._seed
        return oracle


_ORACLES: dict[str, Callable[..., Any]] = {"random": _Random, "bayesian": _Bayesian, "grid": _Grid}
_EXHAUSTED = {
    "STOPPED": "KerasTuner's {} oracle has no more trials: it finds no point of the space that was not tried.",
    "IDLE": "KerasTuner's {} oracle has no more trials until those end that run.",
}


def _id(number: int) -> str:
    """Return the id of a trial in KerasTuner's own format."""
    return f"{number:04d}"


def _translated(space: Sequence[Parameter]) -> Any:
    """Return the search space as KerasTuner's hyperparameters."""
    found = HyperParameters()
    for row in space:
        scale = "log" if row.log else "linear"
        if len(row.choices) == 1:
            found.Fixed(row.name, row.choices[0])
        elif row.choices and isinstance(row.choices[0], bool):  # `Choice` would convert booleans to numbers
            found.Boolean(row.name, default=row.start)
        elif row.choices:
            start = row.start if row.start in row.choices else row.choices[0]
            found.Choice(row.name, list(row.choices), default=start)
        elif row.whole:
            found.Int(row.name, int(row.low), int(row.high), sampling=scale, default=row.start)
        else:
            found.Float(row.name, row.low, row.high, row.step or None, sampling=scale, default=row.start)
    return found


def _typed(row: Parameter, value: Any) -> Any:
    """Return the nearest value in the parameter's range, with the parameter's type."""
    if row.choices:
        return next(choice for choice in row.choices if choice == value)
    if row.step:
        return min(row.values, key=lambda known: abs(known - value))
    inside = min(max(value, row.low), row.high)
    return int(inside) if row.whole else float(inside)


@contextmanager
def _quiet() -> Iterator[None]:
    """Ignore warnings about deprecated calls in KerasTuner and about imperfect fits of its Gaussian process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
