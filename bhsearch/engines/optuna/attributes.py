"""Attributes and parameters in Optuna's storage. Attributes hold metadata and notes (see `Trial.notes`).

Notes for users are stored as user attributes, which optuna-dashboard shows as columns. Data for this package alone are
stored as system attributes, which optuna-dashboard hides. Optuna has no public API to write system attributes, or all
parameters of a trial at once, so this module uses private names of Optuna.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial
from sqlalchemy.orm import Session

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
    """Store notes with a trial that has not ended."""
    shown, hidden = of_notes(notes)
    for key, value in shown.items():
        storage.set_trial_user_attr(trial_id, key, value)
    for key, value in hidden.items():
        storage.set_trial_system_attr(trial_id, key, value)


def notes_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return the notes of a trial, read from its user and system attributes."""
    hidden = {key.removeprefix(_PREFIX): v for key, v in trial.system_attrs.items() if key.startswith(_PREFIX)}
    return trial.user_attrs | hidden


class CollectedParams:
    """A storage that collects the parameters of a trial, to store them in one transaction.

    Args:
        storage: Storage of the study, which everything else is passed on to.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage
        self._collected: list[tuple[int, str, float, BaseDistribution]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def set_trial_param(self, trial_id: int, name: str, value: float, distribution: BaseDistribution) -> None:
        """Keep a parameter until `flush` is called; see `optuna.storages.BaseStorage.set_trial_param`."""
        self._collected.append((trial_id, name, value, distribution))

    def flush(self) -> None:
        """Store all parameters: in a relational database all of them or none."""
        backend = _backend(self._storage)
        if isinstance(backend, RDBStorage):
            with _create_scoped_session(backend.scoped_session, True) as session:
                for row in self._collected:
                    backend._set_trial_param_without_commit(session, *row)
        else:
            for row in self._collected:
                self._storage.set_trial_param(*row)
        self._collected.clear()


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
        for key, value in notes.items():
            session.query(models.TrialUserAttributeModel).filter_by(trial_id=trial_id, key=key).delete()
            session.add(models.TrialUserAttributeModel(trial_id=trial_id, key=key, value_json=json.dumps(value)))
