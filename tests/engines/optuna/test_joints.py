"""Joint backbones in Optuna: closed until the starting points have ended, then with a meaning that never changes."""

from __future__ import annotations

import random

import pytest

from bhsearch.engines.base import INTERRUPTED
from bhsearch.engines.optuna.engine import OptunaEngine, add_backbones, open_study
from bhsearch.engines.optuna.registry import SAMPLERS
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.engines.optuna.untried import TriedPoints
from bhsearch.objectives.costs import FeatureCosts
from bhsearch.objectives.space import JOINT_BACKBONES, JOINT_NAMES, Parameter, frozen_space, starting_points

NAMES = ("a", "b", "c", "d")
SPACE = frozen_space(NAMES, combine=3)
FACTS = {"uid": "1", "backbones": dict.fromkeys(NAMES, "digest")}
N_FIRST = 2 * len(NAMES)  # starting points of the single backbones


def open_engine(url, sampler="tpe", space=SPACE) -> OptunaEngine:
    """As a process that has just started."""
    return OptunaEngine(open_study(connect(url), "study", FACTS), space, sampler, 0)


def score_of(params) -> float:
    single = {"a": 0.7, "b": 0.9, "c": 0.8, "d": 0.6}.get(params["backbone"], 0.5)
    return single - 0.01 * abs(params["log10_penalty"] - 1.0) + 0.05 * (params["hidden_units"] > 0)


def complete(engine, trial) -> None:
    engine.complete(trial.number, score_of(trial.params), 0.1)


@pytest.mark.parametrize("sampler", SAMPLERS.built_in)
def test_every_sampler_tries_single_backbones_then_joint_ones(database, sampler):
    engine = open_engine(database(), sampler)
    order = []
    for _ in range(N_FIRST + 8):
        trial = engine.ask()
        order.append(trial.params)
        complete(engine, trial)
    assert {point["backbone"] for point in order[:N_FIRST]} == set(NAMES)
    firsts = [starting_points(SPACE, name) for name in JOINT_BACKBONES[3]]
    assert order[N_FIRST:] == [*(first for first, _ in firsts), *(second for _, second in firsts)]
    assert engine.joints() == {
        "joint-1": ["b", "c"],
        "joint-2": ["b", "a"],
        "joint-3": ["c", "a"],
        "joint-4": ["b", "c", "a"],
    }


@pytest.mark.parametrize("sampler", SAMPLERS.built_in)
def test_no_joint_backbone_is_proposed_while_a_starting_point_runs(database, sampler):
    engine = open_engine(database(), sampler)
    slow = engine.ask()
    for _ in range(N_FIRST + 30):
        trial = engine.ask()
        assert trial.params["backbone"] in NAMES
        complete(engine, trial)
        assert engine.joints() == {}
    complete(engine, slow)
    assert engine.ask().params["backbone"] == "joint-1"


@pytest.mark.parametrize("seed", range(4))
def test_the_meaning_never_changes_over_the_life_of_a_study(database, seed):
    """Two processes in any order, which may start again at any time; trials end in any order, or fail."""
    chance, url = random.Random(seed), database()
    engines = [open_engine(url), open_engine(url)]
    running: list[tuple[int, object]] = []
    meanings = []
    for _ in range(60):
        place = chance.randrange(2)
        if chance.random() < 0.15:
            engines[place] = open_engine(url)
        if len(running) < 4 and chance.random() < 0.6:
            trial = engines[place].ask()
            running.append(trial)
            meaning = engines[place].joints()
            assert trial.params["backbone"] in NAMES or trial.params["backbone"] in meaning
            meanings.append(meaning)
        elif running:
            trial = running.pop(chance.randrange(len(running)))
            end = chance.random()
            if end < 0.1:
                engines[place].fail(trial.number, "an error")
            elif end < 0.2:
                engines[place].fail(trial.number, INTERRUPTED)
            elif end < 0.3:
                engines[place].fail(trial.number, "killed", dead=True)
            else:
                engines[place].complete(trial.number, chance.random(), 0.1)
    decided = [meaning for meaning in meanings if meaning]
    assert all(meaning == decided[0] for meaning in decided)
    assert meanings == [{}] * (len(meanings) - len(decided)) + decided  # once decided, always decided
    assert open_engine(url).joints() == (decided[0] if decided else {})


def test_a_decision_survives_a_process_that_is_killed_right_after_it(database, monkeypatch):
    """The decision is stored before the first joint trial is; another process goes on with it."""
    url = database()
    engine = open_engine(url)
    for _ in range(N_FIRST):
        complete(engine, engine.ask())

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "_start", killed)
    with pytest.raises(KeyboardInterrupt):
        engine.ask()
    held = open_engine(url)
    assert held.joints()["joint-4"] == ["b", "c", "a"]
    trial = held.ask()
    assert (trial.number, trial.params["backbone"]) == (N_FIRST, "joint-1")


@pytest.mark.parametrize("n_before", [3, N_FIRST + 1])
def test_a_backbone_that_is_added_changes_no_decision(database, n_before):
    """Before the decision, it takes part in it."""
    url = database()
    engine = open_engine(url)
    for _ in range(n_before):
        complete(engine, engine.ask())
    before = engine.joints()
    grown = frozen_space((*NAMES, "aa"), combine=3)
    study = open_study(connect(url), "study", FACTS)
    add_backbones(study, FACTS, grown[0].choices)
    engine = open_engine(url, space=grown)
    assert engine.joints() == before
    for _ in range(2 * len(grown[0].choices)):
        trial = engine.ask()
        engine.complete(trial.number, 0.95 if trial.params["backbone"] == "aa" else score_of(trial.params), 0.1)
    assert engine.joints()["joint-4"] == (["b", "c", "a"] if before else ["aa", "b", "c"])


def test_two_backbones_leave_the_other_places_closed(database):
    space = frozen_space(NAMES[:2], combine=3)
    engine = open_engine(database(), "random", space)
    found = []
    for _ in range(60):
        trial = engine.ask()
        found.append(trial.params["backbone"])
        complete(engine, trial)
    assert engine.joints() == {"joint-1": ["b", "a"]}
    assert set(found) == {"a", "b", "joint-1"}


def test_with_a_budget_a_joint_backbone_needs_the_features_of_its_members(database):
    """The slow one has only its own images: a view of a pair with it is not paid for, since it has another view."""
    engine = open_engine(database(), "random")
    engine.save_costs(FeatureCosts({"a": 1.0, "b": 1e6, "c": 1.0, "d": 1.0}, {}).to_record())
    for _ in range(80):
        trial = engine.ask(seconds_left=100.0)
        members = engine.joints().get(trial.params["backbone"], [trial.params["backbone"]])
        assert "b" not in members or trial.params["policy"] == "none"
        complete(engine, trial)
    assert JOINT_NAMES & {trial.params["backbone"] for trial in engine.trials() if trial.params["policy"] != "none"}


def test_closed_values_are_not_drawn_even_if_all_other_points_were_tried(database):
    space = (
        Parameter("backbone", "", "", ("a", "b", "joint-1", "joint-2", "joint-3")),
        Parameter("log10_penalty", "", 1.0, low=0.0, high=1.0, step=0.5),
    )
    tried = TriedPoints(space)
    tried.close("backbone", ["joint-1", "joint-2", "joint-3"])
    assert {point["backbone"] for point in tried.untried({})} == {"a", "b"}
    engine = open_engine(database(), "random", space)
    slow = engine.ask()  # a starting point that never ends
    found = set()
    for _ in range(20):
        trial = engine.ask()
        found.add(trial.params["backbone"])
        if trial.params == slow.params:  # its end would be that of the starting point
            engine.fail(trial.number, INTERRUPTED)
        else:
            engine.complete(trial.number, 0.5, 0.1)
    assert slow.params["backbone"] == "a"
    assert found == {"a", "b"}
