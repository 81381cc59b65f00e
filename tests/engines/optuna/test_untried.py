"""No point of a finite space is tried twice, and a study that goes on later samples the same points."""

from __future__ import annotations

import pytest

from bhsearch.engines.optuna.connection import connect
from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.objectives.space import Parameter, effective, frozen_space

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
