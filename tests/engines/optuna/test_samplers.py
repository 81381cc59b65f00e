"""What the samplers promise beyond Optuna's own: a sound beginning for each backbone."""

import pytest

from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.engines.optuna.registry import SAMPLERS
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.objectives.space import starting_point, starting_points
from tests.engines.engines import space_of

LEARNING = [name for name in SAMPLERS.built_in if SAMPLERS.get(name).learns]
BACKBONES = ("staintex-s", "staintex-l", "mobilenet-0.25")
SPACE = space_of(BACKBONES)


def first_params(folder, sampler, n_trials, failing=()):
    storage = connect(f"sqlite:///{folder}/{sampler}.db")
    engine = OptunaEngine(open_study(storage, "study", {"backbones": {}}), SPACE, sampler, 0)
    asked = []
    for number in range(n_trials):
        trial = engine.ask()
        asked.append(trial.params)
        if number in failing:
            engine.fail(trial.number, "it diverged")
        else:
            engine.complete(trial.number, 0.5 + number / 100, 1.0)
    return asked


@pytest.mark.parametrize("sampler", LEARNING)
def test_learning_samplers_begin_with_a_sound_point_for_each_backbone(tmp_path, sampler):
    points = [starting_points(SPACE, backbone) for backbone in BACKBONES]
    assert first_params(tmp_path, sampler, 6) == [*(first for first, _ in points), *(second for _, second in points)]
    assert {point["hidden_units"] for _, point in points} == {16}


def test_a_starting_point_that_fails_does_not_come_again(tmp_path):
    asked = first_params(tmp_path, "tpe", 7, failing=(0,))
    assert [params["backbone"] for params in asked[:3]] == list(BACKBONES)
    assert all(params != asked[0] for params in asked[1:])


def test_random_search_is_random_from_the_first_trial(tmp_path):
    assert first_params(tmp_path, "random", 1) != [starting_point(SPACE, BACKBONES[0])]


def test_starting_points_are_in_the_space():
    for backbone in BACKBONES:
        for point in starting_points(SPACE, backbone):
            assert all(row.holds(point[row.name]) for row in SPACE)
