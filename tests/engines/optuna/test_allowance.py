"""With a small budget, new features come step by step, expensive ones less often; each encoder has its share first."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from optuna.storages import InMemoryStorage

from bhsearch.engines.optuna.allowance import TRIALS_PER_VIEW, Allowance
from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.objectives.costs import FeatureCosts, computed_pairs, pairs_of
from bhsearch.objectives.space import finetune_space, frozen_space, starting_points

BACKBONES = ("staintex-s", "staintex-l")
SPACE = frozen_space(BACKBONES)
FACTS = {"uid": "1", "backbones": dict.fromkeys(BACKBONES, "digest")}
STARTS = [starting_points(SPACE, backbone)[0] for backbone in BACKBONES]


def open_engine(seconds, seed=0, sampler="tpe", storage=None):
    engine = OptunaEngine(open_study(storage or InMemoryStorage(), "study", FACTS), SPACE, sampler, seed)
    engine.save_costs({"seconds": dict(zip(BACKBONES, seconds, strict=True)), "cached": {}})
    return engine


def points_of(engine, n_trials, seconds_left=1e9):
    """Points of a study in which neither backbone is better, and augmentation helps a little."""
    points = []
    for _ in range(n_trials):
        trial = engine.ask(seconds_left=seconds_left)
        off = abs(trial.params["log10_penalty"] - 0.5) + 0.1 * (trial.params["policy"] == "none")
        engine.complete(trial.number, 0.9 - 0.05 * off, 0.1)
        points.append(trial.params)
    return points


def test_the_first_further_view_of_a_backbone_is_always_allowed():
    allows = Allowance(SPACE, STARTS, FeatureCosts(dict(zip(BACKBONES, (1.0, 1000.0), strict=True))))
    assert all(allows(start | {"policy": "stain", "views": 2}) for start in STARTS)


def test_the_next_view_waits_until_the_trials_have_paid_for_it():
    tried = [*STARTS, *(start | {"policy": "stain", "views": 2} for start in STARTS)]
    wanted = STARTS[0] | {"policy": "zoom", "views": 2}
    waited = next(n for n in range(100) if Allowance(SPACE, [*tried, *STARTS[:1] * n], FeatureCosts())(wanted))
    assert len(tried) + waited == 3 * TRIALS_PER_VIEW  # two views are paid for, and this one


def test_cached_features_are_always_allowed():
    tried = [STARTS[0] | {"policy": "stain", "views": 2}] * 2
    allows = Allowance(SPACE, tried, FeatureCosts())
    assert allows(tried[0] | {"tta": True, "hidden_units": 64})
    assert not allows(tried[0] | {"policy": "dihedral"})


def test_more_views_need_the_smallest_number_first():
    assert not Allowance(SPACE, STARTS * 50, FeatureCosts())(STARTS[0] | {"policy": "stain", "views": 4})
    tried = STARTS * 50 + [STARTS[0] | {"policy": "stain", "views": 2}]
    assert Allowance(SPACE, tried, FeatureCosts())(STARTS[0] | {"policy": "stain", "views": 4})


def test_other_spaces_are_left_alone():
    assert Allowance(finetune_space(BACKBONES, (96,)), [], FeatureCosts())({"backbone": "cnn"})


@pytest.mark.parametrize("slow", [0, 1])
def test_a_costly_backbone_is_augmented_less(slow):
    counts = Counter()
    for seed in range(4):
        seconds = [100.0 if number == slow else 1.0 for number in range(2)]
        points = points_of(open_engine(seconds, seed), 24)
        assert {pair for each in STARTS for pair in pairs_of(each)} <= computed_pairs(points)
        counts.update(backbone for backbone, view in computed_pairs(points) if view != IDENTITY)
    assert counts[BACKBONES[1 - slow]] > counts[BACKBONES[slow]]


def test_a_study_that_goes_on_later_uses_the_stored_costs(tmp_path):
    expected = points_of(open_engine((1.0, 20.0)), 24)
    url = f"sqlite:///{tmp_path}/parts.db"
    found = points_of(open_engine((1.0, 20.0), storage=connect(url)), 12)
    found += points_of(OptunaEngine(open_study(connect(url), "study", FACTS), SPACE, "tpe", 0), 12)
    assert found == expected


def test_without_a_budget_costs_change_nothing():
    found = [points_of(open_engine(costs), 14, math.inf) for costs in [(1.0, 1.0), (1.0, 1000.0)]]
    assert found[0] == found[1]


def test_features_that_take_longer_than_the_rest_of_the_budget_are_not_allowed():
    costs = FeatureCosts(dict(zip(BACKBONES, (1.0, 5.0), strict=True)))
    wanted = [start | {"policy": "stain", "views": 2} for start in STARTS]
    assert [Allowance(SPACE, STARTS, costs, 4.0)(point) for point in wanted] == [True, False]
    assert all(Allowance(SPACE, STARTS + wanted, costs, 0.0)(point) for point in wanted)


def test_features_under_shifts_count_against_the_rest_of_the_budget():
    wanted = STARTS[0] | {"policy": "stain", "views": 2}
    costs = FeatureCosts({"staintex-s": 1.0, "staintex-l": 5.0}, {}, {"staintex-s": 10.0, "staintex-l": 50.0})
    allows = Allowance(SPACE, STARTS, costs, 4.0)
    assert [allows(wanted | {"tta": tta}) for tta in (False, True)] == [True, False]  # the image itself was shifted
    assert Allowance(SPACE, STARTS, costs, 11.0)(wanted | {"tta": True})
    assert not Allowance(SPACE, [], costs, 10.0)(STARTS[0])
    assert Allowance(SPACE, [], costs, 11.0)(STARTS[0])
