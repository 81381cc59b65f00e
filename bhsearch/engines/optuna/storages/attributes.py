"""Attributes and parameters in Optuna's storage. Attributes hold metadata and notes (see `Trial.notes`).

Notes for users are stored as user attributes, which optuna-dashboard shows as columns. Data for this package alone are
stored as system attributes, which optuna-dashboard hides. Optuna has no public API to write system attributes, or all
parameters of a trial at once, so this module uses private names of Optuna.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import insert
from sqlalchemy.orm import Session

from bhsearch.engines.optuna.storages import journal
from bhsearch.engines.optuna.storages.database import Database, replace_rows

METRIC = "auc"
_FOR_PEOPLE = frozenset(("seconds", "reason", "retry_of", "auc_low", "auc_high", "ms_per_image"))
_PREFIX = "bhsearch:"


def name_metric(study: optuna.Study) -> None:
    """Set the name of the objective value, which plots of the study show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([METRIC])


def set_attribute(study: optuna.Study, key: str, value: Any) -> None:
    """Store a value as a system attribute of a study, which optuna-dashboard does not show."""
    study._storage.set_study_system_attr(study._study_id, key, value)


def kept(study: optuna.Study) -> dict[str, Any]:
    """Return user and system attributes of a study; version 0.1.0 stored everything as user attributes."""
    return study.user_attrs | study._storage.get_study_system_attrs(study._study_id)


def of_notes(notes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the notes of a trial into user attributes and system attributes, and return both."""
    shown = {key: value for key, value in notes.items() if key in _FOR_PEOPLE}
    return shown, {f"{_PREFIX}{key}": value for key, value in notes.items() if key not in _FOR_PEOPLE}


def keep_notes(storage: BaseStorage, trial_id: int, notes: Mapping[str, Any]) -> None:
    """Store notes with a trial that has not ended: in a database or a journal all of them or none."""
    shown, hidden = of_notes(notes)
    backend = _backend(storage)
    if isinstance(backend, RDBStorage):
        with _create_scoped_session(backend.scoped_session) as session:
            _check_running(backend, session, trial_id)
            replace_rows(session, models.TrialUserAttributeModel, trial_id, shown)
            replace_rows(session, models.TrialSystemAttributeModel, trial_id, hidden)
        return
    if isinstance(storage, JournalStorage):
        journal.set_attributes(storage, trial_id, shown, hidden)
        return
    for key, value in shown.items():
        storage.set_trial_user_attr(trial_id, key, value)
    for key, value in hidden.items():
        storage.set_trial_system_attr(trial_id, key, value)


def end_trial(
    storage: BaseStorage, trial_id: int, state: TrialState, values: Sequence[float] | None, notes: Mapping[str, Any]
) -> None:
    """End a trial and store notes with it: in a database or a journal both or nothing.

    Args:
        storage: Storage of the study.
        trial_id: Trial that has not ended.
        state: State of the ended trial.
        values: Values of the objective; None if it has none.
        notes: Notes to add.

    Raises:
        UpdateFinishedTrialError: If the trial has ended.
    """
    backend = _backend(storage)
    if isinstance(backend, Database):
        backend.end_trial(trial_id, state, values, *of_notes(notes))
    elif isinstance(storage, JournalStorage):
        journal.end_trial(storage, trial_id, state, values, *of_notes(notes))
    else:
        keep_notes(storage, trial_id, notes)
        storage.set_trial_state_values(trial_id, state, values)


def notes_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return the notes of a trial, read from its user and system attributes."""
    hidden = {key.removeprefix(_PREFIX): v for key, v in trial.system_attrs.items() if key.startswith(_PREFIX)}
    return trial.user_attrs | hidden


class NewTrialStorage:
    """The storage of a trial that is being started. Everything else is passed on to the storage of the study.

    The trial is not read again after it was created, and its parameters are collected, to store them in one
    transaction.

    Args:
        storage: Storage of the study.
        agrees: Whether the distributions are known to agree with those of earlier trials in the storage.
    """

    def __init__(self, storage: BaseStorage, agrees: bool = False) -> None:
        self._storage, self._agrees = storage, agrees
        self._created: FrozenTrial | None = None
        self._collected: list[tuple[int, str, float, BaseDistribution]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial) -> int:
        """Create the trial; see `optuna.storages.BaseStorage.create_new_trial`."""
        trial_id = self._storage.create_new_trial(study_id, template_trial)
        if isinstance(self._storage, _CachedStorage):
            self._created = copy.deepcopy(template_trial)
            self._created._trial_id = trial_id
            _, self._created.number = self._storage._trial_id_to_study_id_and_number[trial_id]
        return trial_id

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial; see `optuna.storages.BaseStorage.get_trial`."""
        if self._created is not None and self._created._trial_id == trial_id:
            return self._created
        return self._storage.get_trial(trial_id)

    def set_trial_param(self, trial_id: int, name: str, value: float, distribution: BaseDistribution) -> None:
        """Keep a parameter until `flush` is called; see `optuna.storages.BaseStorage.set_trial_param`."""
        self._collected.append((trial_id, name, value, distribution))

    def flush(self) -> None:
        """Store all parameters: in a database or a journal all of them or none.

        Raises:
            ValueError: If a distribution does not agree with those of earlier trials.
        """
        backend = _backend(self._storage)
        if isinstance(backend, RDBStorage):
            with _create_scoped_session(backend.scoped_session, True) as session:
                if self._agrees:
                    self._add_rows(backend, session)
                else:
                    for row in self._collected:
                        backend._set_trial_param_without_commit(session, *row)
        elif isinstance(self._storage, JournalStorage):
            journal.set_params(self._storage, self._collected)
        else:
            for row in self._collected:
                self._storage.set_trial_param(*row)
        self._collected.clear()

    def _add_rows(self, backend: RDBStorage, session: Session) -> None:
        """Add the rows of all parameters at once, without a search for other distributions."""
        for trial_id in {row[0] for row in self._collected}:
            _check_running(backend, session, trial_id)
        rows = [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": value,
                "distribution_json": distribution_to_json(values),
            }
            for trial_id, name, value, values in self._collected
        ]
        session.execute(insert(models.TrialParamModel), rows)


def _backend(storage: BaseStorage) -> BaseStorage:
    return storage._backend if isinstance(storage, _CachedStorage) else storage


def add_to_ended(storage: BaseStorage, trial_id: int, notes: Mapping[str, str]) -> None:
    """Add user attributes to a trial that has ended.

    The function writes to the database directly, because Optuna does not allow changes to a finished trial, and the
    MLflow run that the notes refer to is created after the trial has ended. It does nothing if the storage is not a
    relational database.
    """
    backend = _backend(storage)
    if not isinstance(backend, RDBStorage):
        return
    with Session(backend.engine) as session, session.begin():
        replace_rows(session, models.TrialUserAttributeModel, trial_id, notes)


def _check_running(backend: RDBStorage, session: Session, trial_id: int) -> None:
    """Raise UpdateFinishedTrialError if a trial has ended."""
    state: Any = models.TrialModel.find_or_raise_by_id(trial_id, session).state
    backend.check_trial_is_updatable(trial_id, state)
