"""Optuna's storage in a database, with fewer and cheaper statements for what every trial needs.

Optuna stores the attributes of a new trial one after another with two statements each, ends a trial in three
transactions, and builds an object for each row that it reads. While a worker starts a trial, the other workers of its
machine wait for it, so that these seconds limit the number of trials that many workers start per second.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, insert, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

_CHUNK = 500  # trials per statement; databases limit the number of values of a statement


class Database(RDBStorage):
    """A storage in a relational database; see `optuna.storages.RDBStorage`."""

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        """Create a trial; a running one without parameters gets its attributes and first heartbeat with it."""
        template = template_trial
        if template is None or template.state != TrialState.RUNNING or template.params or template.intermediate_values:
            return super()._create_new_trial(study_id, template)
        with _create_scoped_session(self.scoped_session) as session:
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)  # as Optuna: one trial at a time
            row: Any = models.TrialModel(
                study_id=study_id, number=None, state=TrialState.RUNNING, datetime_start=template.datetime_start
            )
            session.add(row)
            session.flush()  # before the trials are counted, because SQLite locks at the first change
            row.number = row.count_past_trials(session)
            replace_rows(session, models.TrialUserAttributeModel, row.trial_id, template.user_attrs, is_new=True)
            replace_rows(session, models.TrialSystemAttributeModel, row.trial_id, template.system_attrs, is_new=True)
            if self.heartbeat_interval is not None:
                session.execute(insert(models.TrialHeartbeatModel).values(trial_id=row.trial_id))
            created = copy.deepcopy(template)
            created.number, created._trial_id = row.number, row.trial_id
        return created

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Read trials; see `RDBStorage._get_trials`."""
        if states is not None:
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        earlier = sorted(each for each in included_trial_ids if each <= trial_id_greater_than)
        with _create_scoped_session(self.scoped_session) as session:
            rows: list[Any] = []
            for ids in _chunks(earlier) if earlier else iter([[]]):
                wanted: ColumnElement[bool] = models.TrialModel.trial_id.in_(ids)
                if not rows:
                    wanted = or_(models.TrialModel.trial_id > trial_id_greater_than, wanted)
                query = session.query(models.TrialModel).filter(models.TrialModel.study_id == study_id, wanted)
                rows += query.all()
            if not rows:
                models.StudyModel.find_or_raise_by_id(study_id, session)
            found = {row.trial_id: _without_details(row) for row in sorted(rows, key=lambda row: row.trial_id)}
            for ids in _chunks(list(found)):
                _read_details(session, found, ids)
        return list(found.values())

    def end_trial(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None,
        shown: Mapping[str, Any],
        hidden: Mapping[str, Any],
    ) -> None:
        """End a trial and store user attributes and system attributes with it, in one transaction.

        Args:
            trial_id: Trial that has not ended.
            state: State of the ended trial.
            values: Values of the objective; None if it has none.
            shown: User attributes.
            hidden: System attributes.

        Raises:
            UpdateFinishedTrialError: If the trial has ended.
        """
        with _create_scoped_session(self.scoped_session) as session:
            row: Any = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            self.check_trial_is_updatable(trial_id, row.state)
            replace_rows(session, models.TrialUserAttributeModel, trial_id, shown)
            replace_rows(session, models.TrialSystemAttributeModel, trial_id, hidden)
            for objective, value in enumerate(values or ()):
                self._set_trial_value_without_commit(session, row, objective, value)
            row.state, row.datetime_complete = state, datetime.now()


def replace_rows(
    session: Session,
    model: type[models.TrialUserAttributeModel | models.TrialSystemAttributeModel],
    trial_id: int,
    attributes: Mapping[str, Any],
    is_new: bool = False,
) -> None:
    """Set attributes of a trial, with two statements for all of them.

    Args:
        session: Session of the transaction.
        model: Kind of the attributes.
        trial_id: Trial.
        attributes: Attributes to set.
        is_new: Whether the trial has no attributes yet, so that one statement is enough.
    """
    if not attributes:
        return
    if not is_new:
        session.query(model).filter(model.trial_id == trial_id, model.key.in_(list(attributes))).delete()
    rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
    session.execute(insert(model), rows)


@lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    """Return a distribution from its JSON; all trials of a study have the same few."""
    return json_to_distribution(text)


def _without_details(row: Any) -> FrozenTrial:
    return FrozenTrial(
        number=row.number,
        state=row.state,
        value=None,
        values=None,
        datetime_start=row.datetime_start,
        datetime_complete=row.datetime_complete,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=row.trial_id,
    )


def _read_details(session: Session, trials: Mapping[int, FrozenTrial], ids: Sequence[int]) -> None:
    """Read parameters, values and attributes of some trials into their records."""
    param, value, intermediate = models.TrialParamModel, models.TrialValueModel, models.TrialIntermediateValueModel
    params = _columns(session, ids, param.trial_id, param.param_name, param.param_value, param.distribution_json)
    for trial_id, name, internal, text, _ in sorted(params, key=lambda row: row[-1]):
        distribution = _distribution(text)
        trials[trial_id].params[name] = distribution.to_external_repr(internal)
        trials[trial_id].distributions[name] = distribution
    values: dict[int, dict[int, float]] = {}
    for trial_id, objective, stored, kind, _ in _columns(
        session, ids, value.trial_id, value.objective, value.value, value.value_type
    ):
        values.setdefault(trial_id, {})[objective] = value.stored_repr_to_value(stored, kind)
    for trial_id, found in values.items():
        trials[trial_id].values = [found[objective] for objective in sorted(found)]
    for model, name in (
        (models.TrialUserAttributeModel, "user_attrs"),
        (models.TrialSystemAttributeModel, "system_attrs"),
    ):
        for trial_id, key, text, _ in _columns(session, ids, model.trial_id, model.key, model.value_json):
            getattr(trials[trial_id], name)[key] = json.loads(text)
    for trial_id, step, stored, kind, _ in _columns(
        session,
        ids,
        intermediate.trial_id,
        intermediate.step,
        intermediate.intermediate_value,
        intermediate.intermediate_value_type,
    ):
        reported = intermediate.stored_repr_to_intermediate_value(stored, kind)
        trials[trial_id].intermediate_values[step] = reported


def _columns(session: Session, ids: Sequence[int], trial_id: Any, *columns: InstrumentedAttribute[Any]) -> Any:
    """Return columns of the rows of some trials, with the key of the row as the last column."""
    (key,) = trial_id.class_.__mapper__.primary_key
    return session.execute(select(trial_id, *columns, key).where(trial_id.in_(ids))).all()


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for first in range(0, len(ids), _CHUNK):
        yield ids[first : first + _CHUNK]
