"""What features will cost is known before a trial: the pairs that are missing, and the seconds of each."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.objectives.costs import FeatureCosts, computed_pairs, expected_seconds, pairs_of, rationed_seconds
from bhsearch.objectives.space import frozen_space, starting_point

BACKBONES = ("staintex-s", "staintex-l")
SPACE = frozen_space(BACKBONES)
COSTS = FeatureCosts({"staintex-s": 1.0, "staintex-l": 3.0}, {"staintex-s": ("identity",)})


def test_costs_come_back_from_their_record():
    assert FeatureCosts.of_record(COSTS.to_record()) == COSTS
    assert FeatureCosts.of_record({}) == FeatureCosts()


def test_costs_of_new_backbones_are_added_and_the_others_stay():
    grown = COSTS.with_backbones_of(FeatureCosts({"staintex-s": 9.0, "cnn": 2.0}, {"cnn": ()}))
    assert grown.seconds == {"staintex-s": 1.0, "staintex-l": 3.0, "cnn": 2.0}
    assert grown.cached == {"staintex-s": ("identity",), "cnn": ()}


def test_a_trial_needs_the_image_itself_and_the_views_of_its_policy():
    point = starting_point(SPACE, "staintex-s")
    assert pairs_of(point) == {("staintex-s", "identity")}
    assert pairs_of(point | {"policy": "stain"}) == {("staintex-s", "identity"), ("staintex-s", "stain1")}


def test_a_trial_whose_process_was_killed_while_it_sampled_computed_nothing():
    point = starting_point(SPACE, "staintex-s")
    parts = [{}, {"backbone": "staintex-s"}, {"backbone": "staintex-s", "policy": "stain"}]
    assert computed_pairs([*parts, point]) == pairs_of(point)
    assert expected_seconds(COSTS, SPACE, parts, 3) == expected_seconds(COSTS, SPACE, [], 3)


def test_one_more_trial_is_expected_to_take_the_mean_over_all_combinations():
    choices = {row.name: row.choices for row in SPACE}
    seconds = dict.fromkeys(BACKBONES, 0.0)
    combinations = list(itertools.product(*(choices[name] for name in ("backbone", "policy", "views"))))
    for backbone, policy, views in combinations:
        for _, view in pairs_of({"backbone": backbone, "policy": policy, "views": views}):
            if view not in COSTS.cached.get(backbone, ()):
                seconds[backbone] += COSTS.seconds[backbone] / len(combinations)
    assert expected_seconds(COSTS, SPACE, [], 1) == pytest.approx(seconds)


def test_expected_seconds_grow_to_those_of_all_missing_features_and_no_further():
    seconds = [sum(expected_seconds(COSTS, SPACE, [], n).values()) for n in (0, 1, 10, 100, 10_000)]
    assert seconds[0] == 0
    assert (np.diff(seconds) > 0).all()
    choices = {row.name: row.choices for row in SPACE}
    everything = computed_pairs(
        {"backbone": b, "policy": p, "views": 4} for b in choices["backbone"] for p in choices["policy"]
    )
    missing = everything - {("staintex-s", "identity")}
    assert seconds[-1] == pytest.approx(sum(COSTS.seconds[backbone] for backbone, _ in missing))


def test_features_of_earlier_trials_cost_nothing():
    before = expected_seconds(COSTS, SPACE, [], 20)
    after = expected_seconds(COSTS, SPACE, [starting_point(SPACE, "staintex-l")], 20)
    assert after["staintex-l"] < before["staintex-l"]
    assert after["staintex-s"] == before["staintex-s"]


def test_shifts_that_count_in_the_score_need_the_views_that_a_trial_averages_over():
    point = starting_point(SPACE, "staintex-s") | {"policy": "stain", "views": 2}
    views = {("staintex-s", "identity"), ("staintex-s", "stain1")}
    assert pairs_of(point, shifts=True) == views | {("staintex-s", "shifted identity")}
    both = {("staintex-s", "shifted identity"), ("staintex-s", "shifted stain1")}
    assert pairs_of(point | {"tta": True}, shifts=True) == views | both
    assert computed_pairs([point], shifts=True) == pairs_of(point, shifts=True)
    unfinished = {name: value for name, value in point.items() if name != "tta"}
    assert computed_pairs([unfinished], shifts=True) == set()


def test_shifts_that_count_in_the_score_cost_their_own_seconds():
    shifted = {"staintex-s": 10.0, "staintex-l": 40.0}
    costs = FeatureCosts(COSTS.seconds, {"staintex-s": ("identity", "shifted identity")}, shifted)
    assert FeatureCosts.of_record(costs.to_record()) == costs
    choices = {row.name: row.choices for row in SPACE}
    combinations = list(itertools.product(*(choices[name] for name in ("backbone", "policy", "views", "tta"))))
    expected = dict.fromkeys(BACKBONES, 0.0)
    for backbone, policy, views, tta in combinations:
        names = views_of(policy, views)
        passes = [name for name in names if (backbone, name) != ("staintex-s", "identity")]
        expected[backbone] += len(passes) * costs.seconds[backbone] / len(combinations)
        under_shifts = [
            name for name in (names if tta else names[:1]) if (backbone, name) != ("staintex-s", "identity")
        ]
        expected[backbone] += len(under_shifts) * shifted[backbone] / len(combinations)
    assert expected_seconds(costs, SPACE, [], 1) == pytest.approx(expected)
    grown = costs.with_backbones_of(FeatureCosts({"cnn": 2.0}, {"cnn": ()}, {"cnn": 9.0}))
    assert grown.shifted == {**shifted, "cnn": 9.0}


def test_a_budget_rations_features_only_while_it_is_too_small():
    needed = sum(expected_seconds(COSTS, SPACE, [], 20).values()) + 20 * 0.5
    assert rationed_seconds(needed + 0.1, COSTS, SPACE, [], 20, 0.5) == math.inf
    assert rationed_seconds(needed - 0.1, COSTS, SPACE, [], 20, 0.5) == needed - 0.1
    assert rationed_seconds(math.inf, COSTS, SPACE, [], 20, 0.5) == math.inf
    assert rationed_seconds(3.0, FeatureCosts(), (), [], 20, 0.5) == 3.0
