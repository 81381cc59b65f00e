"""Optuna as the engine, beyond what every engine promises: nothing is lost while a study grows."""

from __future__ import annotations

import math
import os

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from bhsearch import states
from bhsearch.engines.base import INTERRUPTED
from bhsearch.engines.optuna import engine
from bhsearch.engines.optuna.engine import OptunaEngine, add_backbones, metadata_of, open_study
from bhsearch.engines.optuna.registry import SAMPLERS
from bhsearch.engines.optuna.storages import attributes
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.errors import StudyError
from bhsearch.objectives.space import starting_point
from tests.engines.engines import BACKBONES, SPACE, space_of

FACTS = {"uid": "1", "backbones": dict.fromkeys(BACKBONES, "digest")}
N_TRIALS = 19  # TPE starts to think at the sixteenth
LEARNING = [name for name in SAMPLERS.built_in if SAMPLERS.get(name).learns]


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


@pytest.mark.parametrize("sampler", SAMPLERS.built_in)
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
    add_backbones(open_study(connect(database()), "study", FACTS), grown_facts(), (*BACKBONES, "new"))
    wide = space_of((*BACKBONES, "new"))
    assert one_trial(open_engine(database(), sampler, space=wide)) == starting_point(wide, "new")


def effort_of_an_ask(url, space) -> tuple[int, int]:
    """How often trials are read and how many transactions are made, for TPE beside a trial that runs."""
    study = open_engine(url, space=space)
    for _ in range(N_TRIALS):
        trial = study.ask()
        study.complete(trial.number, 0.5 + trial.number / 100, 0.1)
    open_engine(url, space=space).ask()
    storage, reads, commits = study._study._storage, [], []
    read = storage.get_all_trials

    def counted(*args, **more):
        reads.append(args)
        return read(*args, **more)

    sqlalchemy.event.listen(storage._backend.engine, "commit", commits.append)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "get_all_trials", counted)
        assert len(study.ask().params) == len(space)
    return len(reads), len(commits)


def test_an_ask_takes_no_more_for_many_parameters_than_for_few(database):
    assert effort_of_an_ask(database("many"), SPACE) == effort_of_an_ask(database("few"), SPACE[:3])


def test_a_trial_has_all_its_parameters_or_none(database, monkeypatch):
    """As if the process had died while they were stored."""
    study = open_engine(database())
    backend = study._study._storage._backend
    store, stored = backend._set_trial_param_without_commit, []

    def die(session, trial_id, name, *rest):
        if len(stored) == 3:
            raise KeyboardInterrupt
        stored.append(name)
        store(session, trial_id, name, *rest)

    monkeypatch.setattr(backend, "_set_trial_param_without_commit", die)
    with pytest.raises(KeyboardInterrupt):
        study.ask()
    (trial,) = optuna.load_study(study_name="study", storage=connect(database())).trials
    assert (trial.params, trial.state) == ({}, TrialState.RUNNING)


# -- what a trial keeps ------------------------------------------------------------------------------------------------


def test_a_trial_that_a_user_enqueued_comes_first(database):
    study = open_engine(database())
    point = starting_point(SPACE, BACKBONES[1]) | {"epochs": 7}
    optuna.load_study(study_name="study", storage=connect(database())).enqueue_trial(point)
    trial = study.ask()
    assert trial.params == point
    assert trial.notes["owner"]["pid"] == os.getpid()
    assert study.ask().params == starting_point(SPACE, BACKBONES[0])


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
    add_backbones(open_study(connect(database()), "study", FACTS), grown_facts(), (*BACKBONES, "new"))
    assert told(database()) == before
    study = optuna.load_study(study_name="study", storage=connect(database()))
    assert metadata_of(study) == grown_facts()
    assert study.direction.name == "MAXIMIZE"
    assert optuna.get_all_study_names(connect(database())) == ["study"]
    wide = space_of((*BACKBONES, "new"))
    after = [one_trial(OptunaEngine(study, wide, "random", 0)) for _ in range(12)]
    assert "new" in {params["backbone"] for params in after}
    assert {params["backbone"] for params in after} <= {*BACKBONES, "new"}


@pytest.mark.parametrize("sampler", SAMPLERS.built_in)
def test_a_grown_study_does_not_meet_its_old_points_again(database, sampler):
    """A sampler that keeps its place in a sequence beside the trials would start the sequence again."""
    study = open_engine(database(), sampler)
    before = [one_trial(study) for _ in range(N_TRIALS)]
    add_backbones(open_study(connect(database()), "study", FACTS), grown_facts(), (*BACKBONES, "new"))
    study = open_engine(database(), sampler, space=space_of((*BACKBONES, "new")))
    after = [one_trial(study) for _ in range(4)]
    assert {str(params) for params in after}.isdisjoint(map(str, before))
    if sampler not in LEARNING:  # those begin with a sound point for the new backbone, which shares its numbers
        assert {params["dropout"] for params in after}.isdisjoint(params["dropout"] for params in before)


class Killed(BaseException):
    """Ends a function where a killed process would have ended, with what it had committed."""


# What growing does to the storage, in order: step, and how often it was done before.
STEPS = (
    ("create_study", 0),
    ("name_metric", 0),
    ("set_attribute", 0),
    ("add_trials", 0),
    ("set_attribute", 1),
    ("delete_study", 0),
    ("copy_study", 0),
    ("delete_study", 1),
)


@pytest.mark.parametrize(("step", "calls"), STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_growing_that_was_killed_at_any_step_loses_nothing(database, monkeypatch, step, calls, when):
    with_all_states(database())
    before = told(database())
    owner = {"add_trials": optuna.Study, "set_attribute": attributes, "name_metric": attributes}.get(step, optuna)
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
            add_backbones(open_study(connect(database()), "study", FACTS), grown_facts(), (*BACKBONES, "new"))
    study = open_study(connect(database()), "study", FACTS)
    assert told(database()) == before
    assert metadata_of(study) in (FACTS, grown_facts())
    assert optuna.get_all_study_names(connect(database())) == ["study"]
    again = add_backbones(study, grown_facts(), (*BACKBONES, "new"))
    assert metadata_of(again) == grown_facts()
    assert told(database()) == before


def test_a_copy_that_was_killed_half_way_is_made_again(database):
    """The state that a kill inside Optuna's own copying leaves: the new study has its name, and some of the trials."""
    with_all_states(database())
    before = told(database())
    storage = connect(database())
    whole = optuna.load_study(study_name="study", storage=storage)
    draft = optuna.create_study(storage=storage, study_name="study (growing)", direction="maximize")
    attributes.set_attribute(draft, "bhsearch.schema", 1)
    attributes.set_attribute(draft, "bhsearch.facts", grown_facts())
    wide = CategoricalDistribution((*BACKBONES, "new"))
    draft.add_trials([engine._with_choices(trial, wide) for trial in whole.trials])
    attributes.set_attribute(draft, "bhsearch.whole", True)
    optuna.delete_study(study_name="study", storage=storage)
    part = optuna.create_study(storage=storage, study_name="study", direction="maximize")
    part.add_trials(draft.trials[:2])
    study = open_study(connect(database()), "study", FACTS)
    assert told(database()) == before
    assert metadata_of(study) == grown_facts()
    assert optuna.get_all_study_names(storage) == ["study"]


def test_a_study_with_a_running_trial_does_not_grow(database):
    study = open_engine(database())
    study.ask()
    with pytest.raises(StudyError, match="Cannot add backbones to the study 'study' while"):
        add_backbones(open_study(connect(database()), "study", FACTS), grown_facts(), (*BACKBONES, "new"))
    assert optuna.get_all_study_names(connect(database())) == ["study"]
    assert [trial.state for trial in study.trials()] == [states.RUNNING]


# -- storages and foreign studies --------------------------------------------------------------------------------------


def test_a_study_of_another_program_is_refused_and_left_alone(database):
    foreign = optuna.create_study(storage=connect(database()), study_name="study")
    foreign.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(StudyError, match=r"'study' was not created by bhsearch.*--study"):
        metadata_of(open_study(connect(database()), "study", FACTS))
    assert [trial.state for trial in foreign.trials] == [TrialState.COMPLETE]


@pytest.mark.parametrize(
    "url",
    [
        "nosuch://user:hunter2@host/db",
        "mysql://user:hunter2@host/db",
        "user:hunter2@host",
        "",
        "postgresql://user:hunter2@[host/db",
    ],
)
def test_a_storage_that_cannot_be_opened_is_said_without_its_password(url):
    with pytest.raises(StudyError, match="Cannot open the database in --storage") as caught:
        connect(url)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "optuna.db").write_text("not a database, and long enough to be read as a header" * 9)
    with pytest.raises(StudyError, match="--storage"):
        connect(f"sqlite:///{tmp_path}/optuna.db")
