"""The storage in a database reads and writes what Optuna's does, with fewer statements."""

from __future__ import annotations

import datetime

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState, create_trial

from bhsearch.engines.optuna.storages import database
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.engines.optuna.storages.database import Database
from tests.engines.optuna.test_history import statements

SPACE = {
    "backbone": CategoricalDistribution(("a", "b", None)),
    "rate": FloatDistribution(1e-5, 1.0, log=True),
    "units": IntDistribution(8, 64, step=8),
}


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/optuna.db"


def filled(url: str, n_trials: int = 7) -> optuna.Study:
    """Trials in all states, with all kinds of values and attributes, beside those of another study."""
    storage = connect(url)
    other = optuna.create_study(storage=storage, study_name="other")
    study = optuna.create_study(storage=storage, study_name="one", direction="maximize")
    ends = [0.5, float("inf"), float("-inf"), TrialState.PRUNED, TrialState.FAIL, None, TrialState.PRUNED]
    for number in range(n_trials):
        other.ask(SPACE)
        trial, end = study.ask(SPACE), ends[number % len(ends)]
        trial.set_user_attr("note", {"nested": [number, None]})
        study._storage.set_trial_system_attr(trial._trial_id, "hidden", "x" * number)
        for step, value in enumerate((0.1, float("nan"), float("inf"), float("-inf"), 0.25)[: number % 6]):
            trial.report(value, step)
        if isinstance(end, float):
            study.tell(trial, end)
        elif end is not None:
            study.tell(trial, state=end)
    study.enqueue_trial({"units": 16})
    return study


@pytest.mark.parametrize("chunk", [2, 500])
def test_trials_are_read_as_optuna_reads_them(url, monkeypatch, chunk):
    monkeypatch.setattr(database, "_CHUNK", chunk)
    study = filled(url)
    expected = optuna.load_study(study_name="one", storage=RDBStorage(url)).trials
    assert len(expected) == 8
    found = optuna.load_study(study_name="one", storage=connect(url)).trials
    assert [repr(trial) for trial in found] == [repr(trial) for trial in expected]  # nan is not equal to itself
    assert [list(trial.params) for trial in found] == [list(trial.params) for trial in expected]
    assert [repr(trial) for trial in study.trials] == [repr(trial) for trial in expected]


@pytest.mark.parametrize("chunk", [2, 500])
def test_a_trial_that_ends_after_later_ones_is_read_again(url, monkeypatch, chunk):
    monkeypatch.setattr(database, "_CHUNK", chunk)
    writer = optuna.create_study(storage=connect(url), study_name="one")
    reader = optuna.load_study(storage=connect(url), study_name="one")
    running = [writer.ask(SPACE) for _ in range(7)]
    assert {trial.state for trial in reader.trials} == {TrialState.RUNNING}
    writer.tell(running[6], 0.6)
    assert [trial.value for trial in reader.trials] == [None] * 6 + [0.6]
    for trial in running[:6]:
        writer.tell(trial, 0.1 * trial.number)
    assert [trial.value for trial in reader.trials] == [0.1 * number for number in range(6)] + [0.6]
    later = writer.ask(SPACE)
    assert [trial.params for trial in reader.trials][-1] == later.params


def test_a_study_that_does_not_exist_has_no_trials(url):
    storage = connect(url)
    assert isinstance(storage, Database)
    with pytest.raises(KeyError):
        storage.get_all_trials(7)


def test_a_new_trial_is_stored_with_its_attributes_as_optuna_stores_it_with_fewer_statements(url):
    connect(url)  # makes the tables
    now, sent, found = datetime.datetime.now(), [], []
    template = create_trial(
        state=TrialState.RUNNING, user_attrs={"retry_of": 3}, system_attrs={"a": 1, "b": [2], "c": None}
    )
    for storage in (RDBStorage(url), Database(url)):
        study_id = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE])
        with statements() as executed:
            numbers = [storage.get_trial(storage.create_new_trial(study_id, template)).number for _ in range(3)]
        assert numbers == [0, 1, 2]
        sent.append(len(executed))
        (first, *_) = storage.get_all_trials(study_id)
        assert now <= first.datetime_start <= datetime.datetime.now()
        first._trial_id = 0
        found.append(first)
    assert repr(found[0]) == repr(found[1])
    assert sent[1] < 0.7 * sent[0]


def test_a_trial_with_parameters_or_an_end_is_added_as_by_optuna(url):
    study = optuna.create_study(storage=connect(url), direction="maximize")
    added = create_trial(params={"units": 16}, distributions={"units": SPACE["units"]}, value=0.5, user_attrs={"a": 1})
    study.add_trial(added)
    (found,) = study.trials
    assert (found.params, found.value, found.user_attrs) == ({"units": 16}, 0.5, {"a": 1})


def test_a_trial_whose_process_dies_before_its_first_own_heartbeat_is_found(url):
    connect(url)
    with pytest.warns(ExperimentalWarning):
        storage = Database(url, heartbeat_interval=20, grace_period=90)
    study_id = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE])
    trial_id = storage.create_new_trial(study_id, create_trial(state=TrialState.RUNNING))
    assert storage._get_stale_trial_ids(study_id) == []
    with storage.engine.begin() as connection:
        long_ago = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - datetime.timedelta(seconds=100)
        connection.execute(sqlalchemy.update(models.TrialHeartbeatModel).values(heartbeat=long_ago))
    assert storage._get_stale_trial_ids(study_id) == [trial_id]


def test_a_trial_ends_with_its_attributes_or_not_at_all(url):
    study = optuna.create_study(storage=connect(url), direction="maximize")
    trial, backend = study.ask(SPACE), study._storage._backend
    with pytest.raises(TypeError):
        backend.end_trial(trial._trial_id, TrialState.COMPLETE, [0.5], {"seconds": 1.0}, {"no JSON": object()})
    assert study.trials[0].state == TrialState.RUNNING
    assert study.trials[0].user_attrs == {}
    backend.end_trial(trial._trial_id, TrialState.COMPLETE, [0.5], {"seconds": 1.0}, {"hidden": 2})
    with pytest.raises(UpdateFinishedTrialError):
        backend.end_trial(trial._trial_id, TrialState.FAIL, None, {"reason": "late"}, {})
    (found,) = optuna.load_study(study_name=study.study_name, storage=RDBStorage(url)).trials
    assert (found.value, found.user_attrs, found.system_attrs) == (0.5, {"seconds": 1.0}, {"hidden": 2})
    assert found.datetime_complete >= found.datetime_start


def test_a_process_keeps_one_connection_open(url):
    study = filled(url)
    assert study._storage._backend.engine.pool.checkedin() == 1
