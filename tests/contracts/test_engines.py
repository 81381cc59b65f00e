"""The contract of engines and samplers, over every one that is installed: the built-in ones and those of plugins."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhsearch import states
from bhsearch.engines.base import INTERRUPTED, TrialAlreadyEnded
from bhsearch.engines.registry import ENGINES
from bhsearch.errors import StudyError
from tests.engines.engines import BACKBONES, CASES, FACTS, N_TRIALS, SPACE, Place, one_trial, score_of, space_of
from tests.studies import started

STOPS = (1, 5, 16, 19)
# One sampler of each engine, for what has nothing to do with samplers.
PLAIN = [(name, min(ENGINES.get(name).samplers(), key=lambda sampler: sampler != "random")) for name in ENGINES]
each = pytest.mark.parametrize(("engine", "sampler"), CASES)
either = pytest.mark.parametrize(
    ("engine", "sampler", "database"),
    [*((*case, "database") for case in PLAIN), ("optuna", "random", "journal")],
    indirect=["database"],
)


@pytest.fixture
def database(request, database, tmp_path):
    """URLs of fresh, empty storages by name: of databases, or of journals for the engine that has them."""
    if getattr(request, "param", "database") == "database":
        return database
    return lambda name="optuna": f"journal:{tmp_path}/{name}.log"


@pytest.fixture
def place(engine, database, tmp_path, monkeypatch):
    """Where the engine's studies are; fresh, or the one of that name."""

    def made(name="here") -> Place:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        return Place(engine, database(name))

    return made


def exact(row, value) -> bool:
    """Whether a value is in the space and of the type that the space has."""
    kind = type(row.choices[0]) if row.choices else int if row.whole else float
    return row.holds(value) and type(value) is kind


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, empty_database):
    """Points of a study of `N_TRIALS` trials in one go."""
    found = {}

    def points(engine, sampler):
        if (engine, sampler) not in found:
            with contextlib.chdir(tmp_path_factory.mktemp("whole")):
                shutil.copy(empty_database, "o.db")
                study = Place(engine, "sqlite:///o.db").open(sampler)
                found[engine, sampler] = [one_trial(study) for _ in range(N_TRIALS)]
        return found[engine, sampler]

    return points


# -- points ------------------------------------------------------------------------------------------------------------


@each
def test_every_sampled_value_is_in_the_space_and_has_its_type(uninterrupted, engine, sampler):
    for params in uninterrupted(engine, sampler):
        assert list(params) == [row.name for row in SPACE]
        assert [row.name for row in SPACE if not exact(row, params[row.name])] == []
    assert len({str(params) for params in uninterrupted(engine, sampler)}) == N_TRIALS


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**40), case=st.sampled_from(CASES), size=st.integers(1, 4))
def test_any_seed_and_any_list_of_backbones_samples_inside_the_whole_space(empty_database, seed, case, size):
    space = space_of(tuple(f"b{k}" for k in range(size)))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copy(empty_database, "optuna.db")
        study = Place(case[0], f"sqlite:///{folder}/optuna.db").open(case[1], seed, space)
        for _ in range(3):
            params = one_trial(study)
            assert [row.name for row in space if not exact(row, params[row.name])] == []


@each
def test_a_study_opened_anew_after_some_trials_goes_on_as_an_uninterrupted_one(place, uninterrupted, engine, sampler):
    found = []
    for number in range(N_TRIALS):
        if number == 0 or number in STOPS:
            study = place().open(sampler)
        found.append(one_trial(study))
    assert found == uninterrupted(engine, sampler)


@each
def test_an_interrupted_trial_leaves_no_trace_in_what_follows(place, uninterrupted, engine, sampler):
    study, found = place().open(sampler), []
    for number in range(N_TRIALS):
        if number in STOPS:
            study.fail(study.ask().number, INTERRUPTED)
            if number == STOPS[-1]:
                study = place().open(sampler)
        found.append(one_trial(study))
    assert found == uninterrupted(engine, sampler)


@pytest.mark.parametrize(("engine", "sampler"), [case for case in CASES if case[1] != "cmaes"])
def test_a_trial_whose_process_died_is_run_again_in_its_place(place, uninterrupted, engine, sampler):
    """Another process ends it, as a supervisor does; then the same point comes again, and nothing else is changed.

    Except with CMA-ES: Optuna leaves a point that was given out of its generation, and samples one more for it.
    """
    study, found = place().open(sampler), []
    for number in range(N_TRIALS):
        if number in STOPS:
            dead = study.ask()
            place().open(sampler).fail(dead.number, "its process died", dead=True)
            study = place().open(sampler) if number == STOPS[-1] else study
            again = study.ask(dead.params, {"retry_of": dead.number, "attempt": 1})
            assert again.params == dead.params
            study.complete(again.number, score_of(again.params), 0.1)
            found.append(again.params)
        else:
            found.append(one_trial(study))
    assert found == uninterrupted(engine, sampler)
    assert sum(trial.notes.get("dead", False) for trial in study.trials()) == len(STOPS)


@each
def test_a_failed_trial_is_not_met_again(place, sampler):
    """The same point would fail again, five times in a row, and the study could never go on."""
    points = []
    for _ in range(4):
        study = place().open(sampler)
        trial = study.ask()
        points.append(str(trial.params))
        study.fail(trial.number, "it failed")
    assert len(set(points)) == 4


@each
def test_a_trial_that_died_for_the_last_time_is_not_met_again(place, sampler):
    study = place().open(sampler)
    first = study.ask()
    study.fail(first.number, "its process died", dead=True)
    for attempt in (1, 2):
        again = study.ask(first.params, {"retry_of": attempt - 1, "attempt": attempt})
        study.fail(again.number, "its process died", dead=True)
    assert one_trial(place().open(sampler)) != first.params


@pytest.mark.parametrize(("engine", "sampler"), [case for case in CASES if case[1] != "grid"])
def test_another_seed_goes_another_way(place, sampler):
    """But a grid has one way. Samplers that learn begin with the same sound points."""
    ways = []
    for seed in (0, 1):
        study = place(str(seed)).open(sampler, seed)
        ways.append([one_trial(study) for _ in range(5)])
    assert ways[0] != ways[1]


@each
def test_two_that_ask_at_once_get_different_points(place, sampler):
    first, second = place().open(sampler).ask(), place().open(sampler).ask()
    assert first.params != second.params
    assert (first.number, second.number) == (0, 1)


# -- what a trial keeps ------------------------------------------------------------------------------------------------


@either
def test_trials_come_back_as_they_were_told(place, sampler):
    study = place().open(sampler)
    asked = [study.ask() for _ in range(4)]
    study.complete(0, 0.75, 1.23456)
    study.fail(1, "too large")
    study.prune(2, 0.5)
    kept = place().open(sampler).trials()
    assert kept == study.trials()
    assert [trial.number for trial in kept] == [trial.number for trial in asked] == [0, 1, 2, 3]
    assert [trial.state for trial in kept] == [states.COMPLETE, states.FAILED, states.PRUNED, states.RUNNING]
    assert [trial.value for trial in kept] == [0.75, None, None, None]
    assert [trial.counts for trial in kept] == [True, False, True, False]
    assert [trial.params for trial in kept] == [trial.params for trial in asked]
    assert [trial.notes.get("seconds") for trial in kept] == [1.2346, None, 0.5, None]
    assert kept[1].notes["reason"] == "too large"
    assert [trial.notes["owner"]["pid"] for trial in kept] == [os.getpid()] * 4


@either
def test_interval_and_cost_of_a_complete_trial_are_kept_where_they_are_known(place, sampler):
    study = place().open(sampler)
    for _ in range(2):
        study.ask()
    study.complete(0, 0.75, 1.0, (0.6, 0.9), 2.5)
    study.complete(1, 0.75, 1.0)
    first, second = place().open(sampler).trials()
    assert [first.notes[name] for name in ("auc_low", "auc_high", "ms_per_image")] == [0.6, 0.9, 2.5]
    assert not {"auc_low", "auc_high", "ms_per_image"} & set(second.notes)


@either
def test_costs_are_kept_for_every_process_and_replaced_as_a_whole(place, sampler):
    study = place().open(sampler)
    assert study.costs() == {}
    study.save_costs({"seconds": {"staintex-s": 1.5}, "cached": {"staintex-s": ["identity"]}})
    assert place().open(sampler).costs() == {"seconds": {"staintex-s": 1.5}, "cached": {"staintex-s": ["identity"]}}
    study.save_costs({"seconds": {"staintex-l": 2.5}})
    assert place().open(sampler).costs() == {"seconds": {"staintex-l": 2.5}}


@either
def test_costs_stay_when_backbones_are_added(place, sampler):
    here = place()
    here.open(sampler).save_costs({"seconds": {"staintex-s": 1.5}})
    here.study().add_backbones(FACTS, (*BACKBONES, "more"))
    assert here.open(sampler, space=space_of((*BACKBONES, "more"))).costs() == {"seconds": {"staintex-s": 1.5}}


@each
def test_a_given_point_and_its_notes_are_there_from_the_first_moment(place, sampler):
    study = place().open(sampler)
    point = one_trial(study) | {"epochs": 7, "tta": True}
    trial = study.ask(point, {"retry_of": 0, "attempt": 1, "started_ms": 5})
    assert trial.params == point
    kept = place().open(sampler).trials()[1]
    assert kept == trial
    assert [kept.notes[name] for name in ("retry_of", "attempt", "started_ms")] == [0, 1, 5]
    assert kept.notes["owner"]["pid"] == os.getpid()
    study.complete(trial.number, 0.9, 0.1)
    assert one_trial(study) != point


@either
def test_one_process_sees_what_another_does(place, sampler):
    writer, reader = place().open(sampler), place().open(sampler)
    assert reader.trials() == []
    for _ in range(2):
        trial = writer.ask()
        assert reader.trials() == writer.trials()
        assert reader.trials()[-1].state == states.RUNNING
        writer.complete(trial.number, 0.5, 0.1)
        assert reader.trials() == writer.trials()
        assert reader.trials()[-1].value == 0.5


@either
def test_a_trial_ends_once(place, sampler):
    study, other = place().open(sampler), place().open(sampler)
    trial = study.ask()
    other.fail(trial.number, "its process died", dead=True)
    with pytest.raises(TrialAlreadyEnded):
        study.complete(trial.number, 0.5, 0.1)
    with pytest.raises(TrialAlreadyEnded):
        study.prune(trial.number, 0.1)
    (kept,) = study.trials()
    assert (kept.state, kept.value, kept.notes["reason"]) == (states.FAILED, None, "its process died")
    again = study.ask()
    for _ in range(2):  # the same end again: whoever settles a trial may be killed before it has noted that it did
        study.complete(again.number, 0.5, 0.1)
    with pytest.raises(TrialAlreadyEnded):
        other.complete(again.number, 0.6, 0.1)
    assert study.trials()[-1].value == 0.5


@either
def test_a_deleted_study_is_gone(place, sampler):
    study = place().open(sampler)
    one_trial(study)
    study.delete()
    with pytest.raises(StudyError, match=r"There is no study .study. .*(Existing studies: none|does not exist)"):
        place().store.find(place().storage, "study")
    assert place().open(sampler).trials() == []


# -- the study ---------------------------------------------------------------------------------------------------------


@either
def test_a_study_keeps_the_facts_that_it_was_made_with(place, sampler):
    place().study()
    study = place().study(facts={"uid": "2"})
    assert study.metadata() == FACTS
    other = place().study("another", {"uid": "3"})
    assert other.metadata() == {"uid": "3"}
    with pytest.raises(StudyError, match=r"no study 'nosuch' in .* Existing studies: (another, study|study, another)"):
        place().store.find(place().storage, "nosuch")
    assert place().store.find(place().storage, "study").metadata() == FACTS


@either
def test_scores_and_points_are_those_of_complete_trials(place, sampler):
    study = place().open(sampler)
    first, second, third = study.ask(), study.ask(), study.ask()
    study.complete(first.number, 0.75, 0.1)
    study.fail(second.number, "it failed")
    study.complete(third.number, 0.5, 0.1)
    assert place().study().completed_trials() == [(0.75, first.params), (0.5, third.params)]


@each
def test_a_study_with_more_backbones_keeps_its_trials_and_samples_the_new_one(place, sampler):
    study = place().open(sampler)
    before = [one_trial(study) for _ in range(4)]
    study.fail(study.ask().number, "it failed")
    kept = study.trials()
    facts = FACTS | {"backbones": dict.fromkeys((*BACKBONES, "new"), "digest")}
    grown = place().study().add_backbones(facts, (*BACKBONES, "new"))
    assert grown.metadata() == facts
    assert place().open(sampler).trials() == kept
    wide = space_of((*BACKBONES, "new"))
    study = place().open(sampler, space=wide)
    after = [one_trial(study) for _ in range(12)]
    assert all(exact(row, params[row.name]) for params in after for row in wide)
    assert {str(params) for params in after}.isdisjoint(map(str, before))
    if sampler != "grid":  # which comes to its first parameter last
        assert "new" in {params["backbone"] for params in after}


@either
def test_a_study_with_a_running_trial_gets_no_backbones(place, sampler):
    study = place().open(sampler)
    study.ask()
    with pytest.raises(StudyError, match="Cannot add backbones to the study 'study' while"):
        place().study().add_backbones(FACTS | {"uid": "2"}, (*BACKBONES, "new"))
    assert place().study().metadata() == FACTS
    assert [trial.state for trial in study.trials()] == [states.RUNNING]


# -- kill -9 -----------------------------------------------------------------------------------------------------------

_BUSY = """
import sys
sys.path.insert(0, sys.argv[4])
from tests.engines.engines import Place, one_trial
engine, storage, sampler = sys.argv[1:4]
study = Place(engine, storage).open(sampler)
for number in range(1000):
    print(len(study.trials()), flush=True)
    one_trial(study)
"""


@either
def test_a_study_whose_process_is_killed_at_work_is_whole(place, uninterrupted, engine, sampler):
    at = place()
    root = str(Path(__file__).resolve().parents[2])
    with started(Path.cwd(), "-c", _BUSY, engine, at.storage, sampler, root) as process:
        for _ in range(8):
            seen = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    study = at.open(sampler)
    trials = study.trials()
    assert len(trials) >= seen == 7
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert {trial.state for trial in trials[:-1]} == {states.COMPLETE}
    if trials[-1].state == states.RUNNING:
        assert trials[-1].notes["owner"]["pid"] == process.pid
        study.fail(trials[-1].number, INTERRUPTED)
    done = [trial.params for trial in study.trials() if trial.counts]
    points = done + [one_trial(study) for _ in range(max(0, N_TRIALS - len(done)))]
    assert points[:N_TRIALS] == uninterrupted(engine, sampler)[: len(points)]
    json.dumps([trial.notes for trial in study.trials()])


def test_the_first_sampler_of_an_engine_is_its_default():
    assert {name: ENGINES.get(name).samplers()[0] for name in ENGINES.built_in} == {
        "optuna": "tpe",
        "keras-tuner": "bayesian",
    }


# -- the store ---------------------------------------------------------------------------------------------------------


@either
def test_settings_come_back_as_they_were_stored_last(place, sampler):
    study = place().study()
    for values in ({"folds": 3}, {"folds": 5, "data": "phantom"}):
        study.save_settings(values)
        assert place().store.find(place().storage, "study").load_settings() == values


@either
def test_studies_are_listed_by_name(place, sampler):
    for name in ("one", "two"):
        place().study(name)
    assert sorted(place().store.names(place().storage)) == ["one", "two"]


@either
def test_a_store_says_what_it_is(place, engine, sampler):
    store = place().store
    assert store.name == engine
    assert store.title
    assert "hunter2" not in store.location("postgresql+psycopg://user:hunter2@host/name")
    assert store.lock_key(place().storage) == store.lock_key(place().storage)
    assert store.sampler_source("nosuch") is None


@either
def test_without_joint_backbones_in_the_space_nothing_is_joined(place, sampler):
    study = place().open(sampler)
    for _ in range(5):
        trial = study.ask()
        study.complete(trial.number, 0.5, 0.1)
    assert study.joints() == {}
