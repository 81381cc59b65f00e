"""An engine reads and takes over only what is new, and knows no less for it."""

from __future__ import annotations

from contextlib import contextmanager

import optuna
import pytest
import sqlalchemy
from optuna.storages import InMemoryStorage

from bhsearch.engines.base import INTERRUPTED
from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.objectives.space import frozen_space, starting_point
from bhsearch.states import COMPLETE, FAILED, RUNNING

BACKBONES = ("staintex-s", "staintex-l")
SPACE = frozen_space(BACKBONES)


def opened(url: str, sampler: str = "tpe") -> OptunaEngine:
    return OptunaEngine(open_study(connect(url), "study", {}), SPACE, sampler, 0)


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/optuna.db"


@contextmanager
def statements():
    """The SQL statements that are executed in the block."""
    found: list[str] = []

    def note(_connection, _cursor, statement, *_) -> None:
        found.append(statement)

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "before_cursor_execute", note)


def test_an_ask_reads_the_trials_once_and_sends_no_more_statements_in_a_large_study(url):
    engine, sent = opened(url), []
    for number in range(60):
        with statements() as found:
            trial = engine.ask()
        engine.complete(trial.number, 0.5 + number / 1000, 0.1)
        sent.append(found)
    reads = [sum("FROM trials" in one and "trials.datetime_start" in one for one in found) for found in sent]
    assert len(sent[-1]) <= len(sent[20])
    assert max(reads[20:]) == 2  # all trials, and the new one, to see whether it may still be changed
    assert sum(one.startswith("INSERT INTO trial_params") for one in sent[-1]) == 1


def reading(found: list[str]) -> int:
    """The number of statements that read all trials of the study."""
    return sum("FROM trials" in one and "trials.study_id =" in one and "count(" not in one for one in found)


def test_an_ask_right_after_the_trials_were_read_does_not_read_them_again(url):
    engine, other = opened(url), opened(url)
    engine.complete(engine.ask().number, 0.5, 0.1)
    engine.trials()
    with statements() as found:
        number = engine.ask().number
    assert reading(found) == 0
    other.complete(other.ask().number, 0.6, 0.1)
    engine.complete(number, 0.7, 0.1)
    with statements() as found:
        assert engine.ask().number == 3
    assert reading(found) == 1
    assert engine._history.n_done == 3


def test_a_trial_is_ended_with_all_its_notes_in_one_transaction_without_being_read(url):
    engine = opened(url)
    number = engine.ask().number
    with statements() as found:
        engine.complete(number, 0.75, 1.5, (0.5, 0.9), 2.0)
    assert len(found) <= 6
    assert not any("FROM trial_params" in one for one in found)
    assert sum(one.startswith("INSERT INTO trial_user_attributes") for one in found) == 1
    (trial,) = optuna.load_study(study_name="study", storage=url).trials
    assert trial.user_attrs == {"seconds": 1.5, "auc_low": 0.5, "auc_high": 0.9, "ms_per_image": 2.0}


def test_every_engine_of_a_study_sees_what_the_others_did(url):
    first, second = opened(url), opened(url)
    one, two = first.ask(), second.ask()
    assert one.params != two.params
    assert [trial.state for trial in first.trials()] == [RUNNING] * 2
    second.complete(two.number, 0.6, 0.1)
    first.fail(one.number, "it diverged")
    for engine in (first, second, opened(url)):
        trials = engine.trials()
        assert [(trial.number, trial.state) for trial in trials] == [(0, FAILED), (1, COMPLETE)]
        assert trials[0].notes["reason"] == "it diverged"
        assert (trials[1].value, trials[1].params) == (0.6, two.params)


def test_the_list_of_trials_belongs_to_the_caller():
    engine = OptunaEngine(open_study(InMemoryStorage(), "study", {}), SPACE, "random", 0)
    engine.complete(engine.ask().number, 0.5, 0.1)
    engine.trials().clear()
    assert len(engine.trials()) == 1


def test_a_starting_point_that_was_interrupted_comes_again_and_one_that_runs_does_not(url):
    engine = opened(url)
    points = [starting_point(SPACE, backbone) for backbone in BACKBONES]
    interrupted = engine.ask()
    engine.fail(interrupted.number, INTERRUPTED)
    assert interrupted.params == points[0]
    assert [engine.ask().params for _ in range(2)] == points
