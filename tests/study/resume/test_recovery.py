"""What dead processes left behind is ended once, as they meant to or as failed, and run again."""

from __future__ import annotations

import optuna
import pytest

from bhsearch.engines.base import MOST_RETRIES, Trial, TrialAlreadyEnded
from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.objectives.space import frozen_space
from bhsearch.runtime.processes import this_process
from bhsearch.states import COMPLETE, FAILED, PRUNED, RUNNING
from bhsearch.study.resume.recovery import DIED, next_retry, recover_dead_trials, via_outbox
from bhsearch.tracking.upload.outbox import Outbox

SPACE = frozen_space(("a", "b"))
NAMES = [row.name for row in SPACE]
DEAD = this_process() | {"pid": 2**22 + 1}
ELSEWHERE = {"host": "another", "pid": 1, "started": 1.0}


@pytest.fixture
def engine(tmp_path):
    return OptunaEngine(open_study(connect(f"sqlite:///{tmp_path}/o.db"), "study", {}), SPACE, "random", 0)


@pytest.fixture
def own(tmp_path):
    return Outbox(tmp_path / "outbox" / "uid.own")


@pytest.fixture
def other(tmp_path):
    return Outbox(tmp_path / "outbox" / "uid.other")


def records(trial, **more):
    return {"number": trial.number, "state": COMPLETE, "score": 0.75, "seconds": 1.0} | more


def states(engine):
    return [trial.state for trial in engine.trials()]


def test_a_trial_of_a_dead_process_fails_and_its_record_is_put(engine, own):
    trial = engine.ask(notes={"owner": DEAD, "started_ms": 7})
    assert [each.number for each in recover_dead_trials(engine, own, ())] == [0]
    (kept,) = engine.trials()
    assert (kept.state, kept.notes["reason"], kept.notes["dead"]) == (FAILED, DIED, True)
    record = own.trial(0).record
    assert (record["state"], record["reason"], record["started_ms"]) == (FAILED, DIED, 7)
    assert record["params"] == trial.params
    assert recover_dead_trials(engine, own, ()) == []


def test_a_trial_that_a_user_enqueued_is_no_dead_one_and_is_run(engine, own, tmp_path):
    point = {**engine.ask().params, "log10_penalty": 2.0}
    optuna.load_study(study_name="study", storage=connect(f"sqlite:///{tmp_path}/o.db")).enqueue_trial(point)
    assert [trial.number for trial in recover_dead_trials(engine, own, ())] == []
    started = engine.ask(notes={"owner": DEAD})
    assert (started.number, started.params) == (1, point)
    assert [trial.number for trial in recover_dead_trials(engine, own, ())] == [1]


@pytest.mark.parametrize("owner", [this_process(), ELSEWHERE])
def test_a_trial_of_a_living_process_is_left_alone(engine, own, owner):
    engine.ask(notes={"owner": owner})
    own.put(0, records(engine.trials()[0]), {})  # it is about to tell the engine
    assert recover_dead_trials(engine, own, ()) == []
    assert states(engine) == [RUNNING]
    assert list(own.held()) == [0]


def test_a_trial_on_another_host_is_settled_when_it_is_stale(engine, own, monkeypatch):
    engine.ask(notes={"owner": ELSEWHERE})
    monkeypatch.setattr(engine, "stale", lambda: {0})
    recover_dead_trials(engine, own, ())
    assert states(engine) == [FAILED]


@pytest.mark.parametrize("state", [COMPLETE, PRUNED, FAILED])
def test_what_lies_in_an_outbox_is_told_and_sent_from_there(engine, own, other, state):
    trial = engine.ask(notes={"owner": DEAD})
    other.put(0, records(trial, state=state, reason="it diverged"), {})
    recover_dead_trials(engine, own, [other])
    (kept,) = engine.trials()
    assert kept.state == state
    assert kept.value == (0.75 if state == COMPLETE else None)
    assert not kept.notes.get("dead", False)
    assert (other.waiting(), own.waiting()) == ([0], [])


def test_interval_and_cost_come_from_the_record(engine, own, other):
    trial = engine.ask(notes={"owner": DEAD})
    other.put(0, records(trial, interval=(0.6, 0.9), cost={"ms_per_image": 2.5, "model_mb": 1.0}), {})
    recover_dead_trials(engine, own, [other])
    (kept,) = engine.trials()
    assert [kept.notes[name] for name in ("auc_low", "auc_high", "ms_per_image")] == [0.6, 0.9, 2.5]


def test_what_was_told_and_not_released_is_released(engine, own, other):
    trial = engine.ask(notes={"owner": DEAD})
    other.put(0, records(trial), {})
    engine.complete(0, 0.75, 1.0)
    recover_dead_trials(engine, own, [other])
    assert states(engine) == [COMPLETE]
    assert other.waiting() == [0]


def test_a_record_of_another_end_than_the_engines_is_dropped(engine, own, other):
    """The trial was taken for dead, and run again: its score must not count twice."""
    trial = engine.ask(notes={"owner": DEAD})
    engine.fail(0, DIED, dead=True)
    other.put(0, records(trial), {})
    recover_dead_trials(engine, own, [other])
    assert states(engine) == [FAILED]
    assert (other.waiting(), other.held()) == ([], {})


def test_a_trial_that_was_overtaken_is_not_sent(engine, own):
    engine.ask()
    engine.fail(0, DIED, dead=True)
    with pytest.raises(TrialAlreadyEnded), via_outbox(own, 0, {}, {}):
        engine.complete(0, 0.5, 1.0)
    assert (own.waiting(), own.held()) == ([], {})


def test_the_same_end_twice_is_one_end(engine):
    """The answer of a storage can be lost, and the call be made again."""
    engine.ask()
    for _ in range(2):
        engine.complete(0, 0.5, 1.0)
    with pytest.raises(TrialAlreadyEnded):
        engine.complete(0, 0.6, 1.0)


def test_the_reason_of_a_death_is_kept_where_it_is_known(engine):
    engine.ask(notes={"owner": DEAD})
    recover_dead_trials(engine, None, (), lambda _: ("it took too long", False))
    (kept,) = engine.trials()
    assert kept.notes["reason"] == "it took too long"
    assert not kept.notes.get("dead", False)


def dead(number, attempt=0, retry_of=None, params=None):
    notes = {"dead": True, "attempt": attempt} | ({"retry_of": retry_of} if retry_of is not None else {})
    return Trial(number, FAILED, dict.fromkeys(NAMES, 1) if params is None else params, notes=notes)


def test_a_dead_trial_is_run_again_twice_at_most():
    trials = [dead(0)]
    for attempt in range(1, MOST_RETRIES + 1):
        first = next_retry(trials, NAMES)
        assert first is trials[-1]
        trials.append(dead(len(trials), attempt, first.number))
    assert next_retry(trials, NAMES) is None


def test_a_trial_that_is_being_run_again_is_not_again():
    again = Trial(1, RUNNING, {}, notes={"retry_of": 0, "attempt": 1})
    assert next_retry([dead(0), again], NAMES) is None


def test_a_trial_whose_retry_died_before_it_had_its_point_is_run_again():
    first, again = dead(0), dead(1, attempt=1, retry_of=0, params={})
    assert next_retry([first, again], NAMES) is first


def test_a_trial_that_died_before_it_had_its_point_is_not_run_again():
    assert next_retry([dead(0, params={"backbone": "a"})], NAMES) is None
    assert next_retry([Trial(0, FAILED, dict.fromkeys(NAMES, 1), notes={"reason": "diverged"})], NAMES) is None
