"""Optuna as the engine: a stopped study goes on as if it had not been stopped, and nothing is lost while it grows."""

from __future__ import annotations

import math
import os

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from bhsearch import states
from bhsearch.errors import SettingsError, StudyError
from bhsearch.search import optuna_engine
from bhsearch.search.engine import INTERRUPTED
from bhsearch.search.optuna_engine import (
    OptunaEngine,
    connect,
    facts_of,
    grow,
    open_study,
)
from bhsearch.search.optuna_samplers import LEARNING, SAMPLERS, check_sampler
from bhsearch.search.space import frozen_space, starting_point

BACKBONES = ("staintex-s", "staintex-l")
SPACE = frozen_space(BACKBONES)
FACTS = {"uid": "1", "backbones": dict.fromkeys(BACKBONES, "digest")}
N_TRIALS = 19  # TPE starts to think at the sixteenth
STOPS = (1, 5, 16, 17)


def open_engine(url, sampler="tpe", seed=0, space=SPACE, name="study"):
    """As a process that has just started."""
    return OptunaEngine(open_study(connect(url), name, FACTS), space, sampler, seed)


def score_of(params) -> float:
    """Some smooth score, so that samplers that learn have something to learn."""
    return 0.5 + 0.1 * math.cos(math.log(params["learning_rate"])) + 0.1 * params["dropout"]


def one_trial(study: OptunaEngine) -> dict[str, object]:
    trial = study.ask()
    study.complete(trial.number, score_of(trial.params), 0.1)
    return trial.params


def told(url, name="study"):
    """Everything that a storage holds of a study's trials, except what growing changes on purpose."""
    return [
        (t.number, t.state, t.values, t.params, t.user_attrs, t.system_attrs, t.datetime_start, t.datetime_complete)
        for t in optuna.load_study(study_name=name, storage=connect(url)).trials
    ]


# -- sampling and resuming ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampled_value_is_in_the_space_and_has_its_type(database, sampler):
    study = open_engine(database(), sampler)
    rows = {row.name: row for row in SPACE}
    for _ in range(N_TRIALS):
        params = one_trial(study)
        assert list(params) == list(rows)
        for name, value in params.items():
            assert rows[name].holds(value)
            assert isinstance(value, int) or not rows[name].whole


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40), sampler=st.sampled_from(sorted(SAMPLERS)), size=st.integers(1, 4))
def test_any_seed_and_any_list_of_backbones_samples_inside(seed, sampler, size):
    space = frozen_space(tuple(f"b{k}" for k in range(size)))
    opened = open_study(optuna.storages.InMemoryStorage(), "study", FACTS)
    study = OptunaEngine(opened, space, sampler, seed)
    for _ in range(3):
        params = one_trial(study)
        assert all(row.holds(params[row.name]) for row in space)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_opened_anew_after_some_trials_goes_on_as_an_uninterrupted_one(database, sampler):
    whole = open_engine(database("whole"), sampler)
    expected = [one_trial(whole) for _ in range(N_TRIALS)]
    found = []
    for number in range(N_TRIALS):
        if number == 0 or number in STOPS:
            study = open_engine(database("stopped"), sampler)
        found.append(one_trial(study))
    assert found == expected
    assert len({str(params) for params in expected}) == N_TRIALS  # else any order of the same point would pass


def test_another_seed_goes_another_way(database):
    first, second = (open_engine(database(str(seed)), "random", seed) for seed in (0, 1))
    assert one_trial(first) != one_trial(second)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_interrupted_trial_leaves_no_trace_in_what_follows(database, sampler):
    whole = open_engine(database("whole"), sampler)
    expected = [one_trial(whole) for _ in range(N_TRIALS)]
    study = open_engine(database("interrupted"), sampler)
    found = []
    for number in range(N_TRIALS):
        if number in STOPS:
            study.fail(study.ask().number, INTERRUPTED)
            study = open_engine(database("interrupted"), sampler)
        found.append(one_trial(study))
    assert found == expected


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_failed_trial_is_not_met_again(database, sampler):
    """The same point would fail again, five times in a row, and the study could never go on."""
    study = open_engine(database(), sampler)
    points = []
    for _ in range(4):
        trial = study.ask()
        points.append(str(trial.params))
        study.fail(trial.number, "it failed")
        study = open_engine(database(), sampler)
    assert len(set(points)) == 4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_that_learn_begin_with_a_sound_point_for_each_backbone(database, sampler):
    study = open_engine(database(), sampler)
    first = [one_trial(study) for _ in BACKBONES]
    sound = [starting_point(SPACE, backbone) for backbone in BACKBONES]
    assert (first == sound) is (sampler in LEARNING)


@pytest.mark.parametrize("sampler", LEARNING)
def test_a_new_backbone_begins_with_its_sound_point_too(database, sampler):
    study = open_engine(database(), sampler)
    for _ in range(3):
        one_trial(study)
    grow(open_study(connect(database()), "study", FACTS), grown_facts(), (*BACKBONES, "new"))
    wide = frozen_space((*BACKBONES, "new"))
    assert one_trial(open_engine(database(), sampler, space=wide)) == starting_point(wide, "new")


def test_an_unknown_sampler_lists_the_known_ones():
    with pytest.raises(SettingsError, match="tpe, random, qmc, cmaes, but got 'nosuch'"):
        check_sampler("nosuch")


# -- what a trial keeps ------------------------------------------------------------------------------------------------


def test_trials_come_back_as_they_were_told(database):
    study = open_engine(database())
    first, second, third = study.ask(), study.ask(), study.ask()
    study.complete(first.number, 0.75, 1.23456)
    study.fail(second.number, "too large")
    kept = open_engine(database()).trials()
    assert [trial.number for trial in kept] == [0, 1, 2]
    assert [trial.state for trial in kept] == [states.COMPLETE, states.FAILED, states.RUNNING]
    assert [trial.value for trial in kept] == [0.75, None, None]
    assert [trial.counts for trial in kept] == [True, False, False]
    assert [trial.params for trial in kept] == [first.params, second.params, third.params]
    assert kept[0].notes["seconds"] == 1.2346
    assert kept[1].notes["reason"] == "too large"
    assert kept[2].notes["owner"]["pid"] == os.getpid()


def test_a_given_point_and_its_notes_are_there_from_the_first_moment(database):
    study = open_engine(database())
    point = starting_point(SPACE, BACKBONES[1]) | {"epochs": 7}
    trial = study.ask(point, {"retry_of": 0, "attempt": 1})
    assert trial.params == point
    (kept,) = open_engine(database()).trials()
    assert kept.params == point
    assert (kept.notes["retry_of"], kept.notes["attempt"]) == (0, 1)
    assert kept.notes["owner"]["pid"] == os.getpid()


def test_a_trial_that_a_user_enqueued_comes_first(database):
    study = open_engine(database())
    point = starting_point(SPACE, BACKBONES[1]) | {"epochs": 7}
    optuna.load_study(study_name="study", storage=connect(database())).enqueue_trial(point)
    trial = study.ask()
    assert trial.params == point
    assert trial.notes["owner"]["pid"] == os.getpid()
    assert study.ask().params == starting_point(SPACE, BACKBONES[0])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_two_that_ask_at_once_get_different_points(database, sampler):
    study = open_engine(database(), sampler)
    assert len({str(study.ask().params) for _ in range(4)}) == 4


def test_importances_need_ten_different_scores(database):
    study = open_engine(database())
    for _ in range(9):
        one_trial(study)
    assert study.importances() == {}
    for _ in range(6):
        one_trial(study)
    shares = study.importances()
    assert set(shares) == {row.name for row in SPACE}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_importances_of_equal_scores_are_unknown(database):
    study = open_engine(database())
    for _ in range(11):
        study.complete(study.ask().number, 0.5, 0.1)
    assert study.importances() == {}


def test_a_deleted_study_is_gone(database):
    study = open_engine(database())
    study.delete()
    assert optuna.get_all_study_names(connect(database())) == []


# -- growing -----------------------------------------------------------------------------------------------------------


def grown_facts():
    return FACTS | {"backbones": dict.fromkeys((*BACKBONES, "new"), "digest")}


def with_all_states(url, sampler="tpe"):
    study = open_engine(url, sampler)
    for _ in range(2):
        one_trial(study)
    study.fail(study.ask().number, "it failed")
    study.fail(study.ask().number, INTERRUPTED)
    one_trial(study)
    return study


def test_a_grown_study_keeps_its_trials_and_samples_the_new_backbone(database):
    with_all_states(database())
    before = told(database())
    grow(open_study(connect(database()), "study", FACTS), grown_facts(), (*BACKBONES, "new"))
    assert told(database()) == before
    study = optuna.load_study(study_name="study", storage=connect(database()))
    assert facts_of(study) == grown_facts()
    assert study.direction.name == "MAXIMIZE"
    assert optuna.get_all_study_names(connect(database())) == ["study"]
    wide = frozen_space((*BACKBONES, "new"))
    after = [one_trial(OptunaEngine(study, wide, "random", 0)) for _ in range(12)]
    assert "new" in {params["backbone"] for params in after}
    assert {params["backbone"] for params in after} <= {*BACKBONES, "new"}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_grown_study_does_not_meet_its_old_points_again(database, sampler):
    """A sampler that keeps its place in a sequence beside the trials would start the sequence again."""
    study = open_engine(database(), sampler)
    before = [one_trial(study) for _ in range(N_TRIALS)]
    grow(open_study(connect(database()), "study", FACTS), grown_facts(), (*BACKBONES, "new"))
    study = open_engine(database(), sampler, space=frozen_space((*BACKBONES, "new")))
    after = [one_trial(study) for _ in range(4)]
    assert {str(params) for params in after}.isdisjoint(map(str, before))
    if sampler not in LEARNING:  # those begin with a sound point for the new backbone, which shares its numbers
        assert {params["dropout"] for params in after}.isdisjoint(params["dropout"] for params in before)


class Killed(BaseException):
    """Ends a function where a killed process would have ended, with what it had committed."""


# What growing does to the storage, in order: step, and how often it was done before.
STEPS = (
    ("create_study", 0),
    ("set_user_attr", 0),
    ("add_trials", 0),
    ("set_user_attr", 1),
    ("delete_study", 0),
    ("copy_study", 0),
    ("delete_study", 1),
)


@pytest.mark.parametrize(("step", "calls"), STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_growing_that_was_killed_at_any_step_loses_nothing(database, monkeypatch, step, calls, when):
    with_all_states(database())
    before = told(database())
    owner = optuna.Study if step in ("add_trials", "set_user_attr") else optuna
    real, left = getattr(owner, step), [calls + 1]

    def killed(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0 and when == "before":
            raise Killed
        result = real(*args, **kwargs)
        if left[0] == 0:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, killed)
        with pytest.raises(Killed):
            grow(open_study(connect(database()), "study", FACTS), grown_facts(), (*BACKBONES, "new"))
    study = open_study(connect(database()), "study", FACTS)
    assert told(database()) == before
    assert facts_of(study) in (FACTS, grown_facts())
    assert optuna.get_all_study_names(connect(database())) == ["study"]
    again = grow(study, grown_facts(), (*BACKBONES, "new"))
    assert facts_of(again) == grown_facts()
    assert told(database()) == before


def test_a_copy_that_was_killed_half_way_is_made_again(database):
    """The state that a kill inside Optuna's own copying leaves: the new study has its name, and some of the trials."""
    with_all_states(database())
    before = told(database())
    storage = connect(database())
    whole = optuna.load_study(study_name="study", storage=storage)
    draft = optuna.create_study(storage=storage, study_name="study (growing)", direction="maximize")
    draft.set_user_attr("bhsearch.facts", grown_facts())
    wide = CategoricalDistribution((*BACKBONES, "new"))
    draft.add_trials([optuna_engine._with_choices(trial, wide) for trial in whole.trials])
    draft.set_user_attr("bhsearch.whole", True)
    optuna.delete_study(study_name="study", storage=storage)
    part = optuna.create_study(storage=storage, study_name="study", direction="maximize")
    part.add_trials(draft.trials[:2])
    study = open_study(connect(database()), "study", FACTS)
    assert told(database()) == before
    assert facts_of(study) == grown_facts()
    assert optuna.get_all_study_names(storage) == ["study"]


def test_a_study_with_a_running_trial_does_not_grow(database):
    study = open_engine(database())
    study.ask()
    with pytest.raises(StudyError, match="'study' is in use"):
        grow(open_study(connect(database()), "study", FACTS), grown_facts(), (*BACKBONES, "new"))
    assert optuna.get_all_study_names(connect(database())) == ["study"]
    assert [trial.state for trial in study.trials()] == [states.RUNNING]


# -- storages and foreign studies --------------------------------------------------------------------------------------


def test_a_study_of_another_program_is_refused_and_left_alone(database):
    foreign = optuna.create_study(storage=connect(database()), study_name="study")
    foreign.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(StudyError, match=r"'study' must be one of bhsearch.*--study"):
        facts_of(open_study(connect(database()), "study", FACTS))
    assert [trial.state for trial in foreign.trials] == [TrialState.COMPLETE]


@pytest.mark.parametrize(
    "url",
    [
        "nosuch://user:hunter2@host/db",
        "mysql://user:hunter2@host/db",
        "user:hunter2@host",
        "sqlite:////nosuch/folder/hunter2/optuna.db",
        "",
        "postgresql://user:hunter2@[host/db",
    ],
)
def test_a_storage_that_cannot_be_opened_is_said_without_its_password(url):
    with pytest.raises(StudyError, match="--storage must be a database that can be opened") as caught:
        connect(url)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "optuna.db").write_text("not a database, and long enough to be read as a header" * 9)
    with pytest.raises(StudyError, match="--storage"):
        connect(f"sqlite:///{tmp_path}/optuna.db")
