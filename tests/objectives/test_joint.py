"""Which backbones are joined follows from their starting points alone, and is not known before these have ended."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.objectives.joint import backbones_of, decide_joints, first_points
from bhsearch.objectives.space import JOINT_NAMES, frozen_space, starting_points

NAMES = ("a", "b", "c", "d")
SCORES = {"a": 0.7, "b": 0.9, "c": 0.8, "d": 0.6}
PAIRS = {"joint-1": ["b", "c"], "joint-2": ["b", "a"], "joint-3": ["c", "a"]}


def ended(scores, space):
    """Starting points that have ended; the second ones of all backbones have the same score, which must not matter."""
    points = {name: starting_points(space, name) for name in scores}
    return [(points[name][0], scores[name]) for name in scores] + [(points[name][1], 0.99) for name in scores]


@pytest.mark.parametrize("combine", [2, 3])
def test_the_best_three_by_their_linear_heads_are_joined(combine):
    space = frozen_space(NAMES, combine=combine)
    triple = {"joint-4": ["b", "c", "a"]} if combine == 3 else {}
    assert decide_joints(space, ended(SCORES, space)) == PAIRS | triple


def test_nothing_is_decided_before_the_last_starting_point_has_ended():
    space = frozen_space(NAMES, combine=2)
    trials = ended(SCORES, space)
    for missing in range(len(trials)):
        assert decide_joints(space, [*trials[:missing], *trials[missing + 1 :]]) is None


def test_ties_are_broken_by_name():
    space = frozen_space(NAMES[::-1], combine=3)
    found = decide_joints(space, ended(dict.fromkeys(NAMES[::-1], 0.5), space))
    assert found is not None
    assert found["joint-4"] == ["a", "b", "c"]


def test_other_trials_and_the_order_of_trials_change_nothing():
    space = frozen_space(NAMES, combine=3)
    trials = ended(SCORES, space)
    others = [(point | {"log10_penalty": 0.0}, 1.0) for point, _ in trials]
    random = np.random.default_rng(0)
    expected = decide_joints(space, trials)
    for _ in range(20):
        mixed = [*trials, *others]
        random.shuffle(mixed)
        assert decide_joints(space, mixed) == expected


def test_a_backbone_whose_trial_failed_is_not_joined():
    space = frozen_space(NAMES, combine=3)
    found = decide_joints(space, ended({**SCORES, "b": None}, space))
    assert found is not None
    assert found["joint-4"] == ["c", "a", "d"]


@pytest.mark.parametrize("combine", [2, 3])
@pytest.mark.parametrize(("n_scored", "expected"), [(0, {}), (1, {}), (2, {"joint-1": ["a", "b"]})])
def test_with_fewer_than_three_there_is_one_pair_or_none(combine, n_scored, expected):
    space = frozen_space(NAMES, combine=combine)
    scores = {name: 0.5 if place < n_scored else None for place, name in enumerate(NAMES)}
    assert decide_joints(space, ended(scores, space)) == expected


def test_single_backbones_come_first_and_second_points_after_all_first_ones():
    space = frozen_space(NAMES[:2], combine=3)
    points = list(first_points(space, {"joint-1": ["a", "b"]}))
    order = [(point["backbone"], point["hidden_units"]) for point in points]
    assert order == [("a", 0), ("b", 0), ("a", 16), ("b", 16), ("joint-1", 0), ("joint-1", 16)]
    assert list(first_points(space, {})) == points[:4]


def test_a_space_says_which_backbones_are_joint():
    for combine, n_joint in ((0, 0), (2, 3), (3, 4)):
        single, joint = backbones_of(frozen_space(NAMES, combine=combine))
        assert (single, len(joint)) == (list(NAMES), n_joint)
        assert JOINT_NAMES.issuperset(joint)
