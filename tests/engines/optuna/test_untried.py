"""No point of a finite space is tried twice, and a study that goes on later samples the same points."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.engines.optuna.untried import TriedPoints
from bhsearch.objectives.space import Parameter, effective, finetune_space, frozen_space

SPACE = frozen_space(("staintex-s",))
FACTS = {"uid": "1", "backbones": {"staintex-s": "digest"}}


def open_engine(url, sampler, space=SPACE):
    return OptunaEngine(open_study(connect(url), "study", FACTS), space, sampler, 0)


def one_trial(engine) -> dict[str, object]:
    """A trial whose score has one peak, to which a sampler that learns returns."""
    trial = engine.ask()
    params = trial.params
    off = abs(params["log10_penalty"] - 1.0) + 2 * (params["policy"] != "none") + (params["hidden_units"] > 0)
    engine.complete(trial.number, 0.9 - 0.05 * off, 0.1)
    return params


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_no_point_is_tried_twice_while_there_are_others(tmp_path, sampler):
    engine = open_engine(f"sqlite:///{tmp_path}/o.db", sampler)
    found = [str(effective(one_trial(engine))) for _ in range(40)]
    assert len(set(found)) == len(found)


def test_a_study_that_goes_on_later_samples_the_same_points(tmp_path):
    whole = open_engine(f"sqlite:///{tmp_path}/whole.db", "tpe")
    expected = [one_trial(whole) for _ in range(30)]
    found = []
    for _ in range(3):
        engine = open_engine(f"sqlite:///{tmp_path}/parts.db", "tpe")
        found += [one_trial(engine) for _ in range(10)]
    assert found == expected


def test_a_space_that_is_used_up_gives_points_again(tmp_path):
    space = (
        Parameter("backbone", "", "", ("staintex-s",)),
        Parameter("log10_penalty", "", 1.0, low=0.0, high=1.0, step=0.5),
    )
    engine = open_engine(f"sqlite:///{tmp_path}/o.db", "random", space)
    found = []
    for _ in range(5):
        trial = engine.ask()
        engine.complete(trial.number, 0.5, 0.1)
        found.append(trial.params["log10_penalty"])
    assert set(found[:3]) == {0.0, 0.5, 1.0}
    assert set(found[3:]) <= {0.0, 0.5, 1.0}


def test_a_running_trial_counts_as_tried(tmp_path):
    space = (
        Parameter("backbone", "", "", ("staintex-s",)),
        Parameter("log10_penalty", "", 1.0, low=0.0, high=1.0, step=0.5),
    )
    engine = open_engine(f"sqlite:///{tmp_path}/o.db", "random", space)
    assert {engine.ask().params["log10_penalty"] for _ in range(3)} == {0.0, 0.5, 1.0}


def test_without_views_their_number_and_their_average_have_no_effect():
    point = {"policy": "none", "views": 4, "tta": True, "log10_penalty": 1.0}
    assert effective(point) == {"policy": "none", "log10_penalty": 1.0}
    assert effective(point | {"policy": "stain"}) == point | {"policy": "stain"}
    finetuned = {"policy": "none", "tta": True}
    assert effective(finetuned) == finetuned


def test_tried_points_are_those_of_a_search_through_all_points():
    space = frozen_space(("a", "b"))
    names, random = [row.name for row in space], np.random.default_rng(0)
    points = [
        dict(zip(names, values, strict=True)) for values in itertools.product(*(r.choices or r.values for r in space))
    ]
    tried, keys = TriedPoints(space), set()
    assert not tried
    for place in random.permutation(len(points))[: len(points) * 3 // 4]:
        tried.add(points[place])
        keys.add(str(effective(points[place])))
    for n_first in range(1, len(names) + 1):
        for place in random.choice(len(points), 40):
            first = {name: points[place][name] for name in names[:n_first]}
            left = [point for point in points if first.items() <= point.items() and str(effective(point)) not in keys]
            assert list(tried.untried(first)) == left
            assert tried.has_untried(first) == bool(left)


def test_a_copy_of_the_tried_points_has_a_life_of_its_own():
    tried = TriedPoints(SPACE)
    point = {row.name: row.choices[0] if row.choices else row.low for row in SPACE}
    copied = tried.copy()
    copied.add(point)
    assert copied
    assert not copied.has_untried(point)
    assert not tried
    assert tried.has_untried(point)


def test_a_value_outside_of_the_space_has_no_point():
    tried = TriedPoints(SPACE)
    point = {row.name: row.choices[0] if row.choices else row.low for row in SPACE}
    tried.add(point | {"log10_penalty": 0.123})
    tried.add({"backbone": "staintex-s"})
    assert tried.has_untried(point)
    assert tried.has_untried({"backbone": "unknown"})


def test_points_of_an_infinite_space_are_not_kept():
    tried = TriedPoints(finetune_space(("cnn",), (96,)))
    tried.add({"backbone": "cnn"})
    assert not tried.is_finite
    assert not tried
