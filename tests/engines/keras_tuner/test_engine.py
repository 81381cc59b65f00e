"""KerasTuner as the engine, beyond what every engine promises: its oracles stay what they are."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from bhsearch.engines.base import SearchExhausted
from bhsearch.engines.keras_tuner.engine import KerasTunerEngine
from bhsearch.engines.keras_tuner.journal import DIRECTORY, open_study
from bhsearch.errors import StudyError
from bhsearch.objectives.base import IntermediateValue
from bhsearch.objectives.space import starting_point
from tests.engines.engines import FACTS, SPACE, Place, one_trial, score_of

EPOCHS = next(row for row in SPACE if row.name == "epochs")


@pytest.fixture
def opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def engine(sampler, seed=0, space=SPACE, name="study"):
        return Place("keras-tuner", "").open(sampler, seed, space, name)

    return engine


def only(*names):
    return tuple(row for row in SPACE if row.name in names)


# -- given points ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["random", "hyperband", "grid"])
def test_a_given_point_does_not_disturb_what_the_oracle_does_next(opened, sampler):
    alone, study = opened(sampler, name="alone"), opened(sampler)
    expected = [one_trial(alone) for _ in range(20)]
    found = []
    for number in range(20):
        if number in (0, 3, 15):
            given = study.ask(starting_point(SPACE, "staintex-l") | {"epochs": 7 + number})
            study.complete(given.number, 0.9, 0.1)
        if number == 4:
            study = opened(sampler)
        found.append(one_trial(study))
    assert found == expected


def test_the_gaussian_process_learns_from_a_given_point(opened):
    alone, study = opened("bayesian", name="alone"), opened("bayesian")
    first = [one_trial(engine) for engine in (alone, study) for _ in range(21)]
    assert first[:21] == first[21:]
    given = study.ask(starting_point(SPACE, "staintex-l"))
    study.complete(given.number, 0.99, 0.1)
    assert one_trial(alone) != one_trial(study)


@pytest.mark.parametrize("change", [{"epochs": 600}, {"backbone": "nosuch"}, {"dropout": None}])
def test_a_given_point_outside_the_space_is_refused(opened, change):
    study = opened("random")
    point = starting_point(SPACE, "staintex-l") | change
    if change.get("dropout", 0) is None:
        del point["dropout"]
    with pytest.raises(StudyError, match=f"The parameters {next(iter(change))}="):
        study.ask(point)
    assert study.trials() == []


def test_a_trial_run_again_after_its_point_came_anyway_is_a_given_point(opened):
    """Nobody ran the dead trial again before the next one was asked for, which then had its place."""
    alone, study = opened("random", name="alone"), opened("random")
    expected = [one_trial(alone) for _ in range(3)]
    dead = study.ask()
    study.fail(dead.number, "its process died", dead=True)
    assert [one_trial(study) for _ in range(2)] == expected[:2]
    again = study.ask(dead.params, {"retry_of": dead.number, "attempt": 1})
    study.complete(again.number, 0.5, 0.1)
    assert one_trial(study) == expected[2]


# -- Hyperband ---------------------------------------------------------------------------------------------------------


def ended_in(trials):
    """Trials by their epochs, in the order they came."""
    rounds = []
    for trial in trials:
        if not rounds or rounds[-1][0] != trial.params["epochs"]:
            rounds.append((trial.params["epochs"], []))
        rounds[-1][1].append(trial)
    return rounds


def test_hyperband_trains_few_for_long_and_the_best_go_on(opened):
    """From 60 epochs, the space's most, down by thirds as long as the space allows: 60, 20, 7."""
    study = opened("hyperband")
    for _ in range(38):
        one_trial(study)
    rounds = ended_in(study.trials())
    # Three brackets. In each the best third goes on; the last trains five points to the end.
    assert [(epochs, len(trials)) for epochs, trials in rounds[:3]] == [(7, 15), (20, 5), (60, 2)]
    assert [(epochs, len(trials)) for epochs, trials in rounds[3:]] == [(20, 8), (60, 3 + 5)]

    def bare(trial):
        return {name: value for name, value in trial.params.items() if name != "epochs"}

    for (_, before), (_, after) in pairwise(rounds[:3]):
        best = sorted(before, key=lambda trial: -trial.value)[: len(after)]
        assert sorted(map(str, map(bare, after))) == sorted(map(str, map(bare, best)))
    one_trial(study)  # and again from the first bracket, for as long as the study wants
    assert study.trials()[-1].params["epochs"] == 7


def test_hyperband_goes_on_without_what_failed(opened):
    study = opened("hyperband")
    for number in range(15):
        trial = study.ask()
        if number < 12:
            study.fail(trial.number, "it failed")
        else:
            study.complete(trial.number, number / 20, 0.1)
    assert study.ask().params["epochs"] == 20  # three are left to choose from, too few for a round: the next bracket


# -- the end of what an oracle has -------------------------------------------------------------------------------------


def test_a_grid_is_walked_once_and_then_has_no_more(opened):
    space = only("backbone", "tta", "hidden_units")
    study = opened("grid", space=space)
    points = []
    for _ in range(12):
        trial = study.ask()
        points.append(tuple(trial.params.values()))
        study.complete(trial.number, 0.5, 0.1)
    assert len(set(points)) == 2 * 2 * 3
    assert points[0] == ("staintex-s", False, 0)  # the sound beginning of each parameter
    for engine in (study, opened("grid", space=space)):
        with pytest.raises(SearchExhausted, match="grid oracle has no more trials: it finds no point"):
            engine.ask()
    assert len(study.trials()) == 12
    again = study.ask(dict(zip(("backbone", "tta", "hidden_units"), points[3], strict=True)))
    study.complete(again.number, 0.5, 0.1)
    with pytest.raises(SearchExhausted):
        study.ask()


def test_a_grid_says_that_it_waits_for_trials_that_run(opened):
    study = opened("grid")
    study.ask(), study.ask()
    with pytest.raises(SearchExhausted, match="no more trials until those end that run"):
        study.ask()
    study.complete(0, 0.5, 0.1)
    study.complete(1, 0.5, 0.1)
    assert study.ask().number == 2


@pytest.mark.parametrize(("sampler", "names"), [("random", ("tta", "hidden_units")), ("hyperband", ("tta", "epochs"))])
def test_a_space_whose_points_were_all_tried_has_no_more(opened, sampler, names):
    study = opened(sampler, space=only(*names))

    def ask_on():
        for number in range(200):
            study.complete(study.ask().number, number / 200, 0.1)

    with pytest.raises(SearchExhausted, match=f"{sampler} oracle has no more trials"):
        ask_on()
    assert 2 <= len({str(trial.params) for trial in study.trials()}) <= 6


# -- KerasTuner itself -------------------------------------------------------------------------------------------------


def test_the_grid_is_keras_tuners_own(opened, tmp_path):
    """Driven by KerasTuner's own loop over create, update and end, without our journal."""
    from bhsearch.engines.keras_tuner.oracles import GridSearchOracle, Objective, _quiet, _translated

    with _quiet():
        oracle = GridSearchOracle(Objective("score", "max"), hyperparameters=_translated(SPACE), seed=1)
        oracle._set_project_dir(tmp_path, "own")
        oracle.verbose = 0
        expected = []
        for _ in range(30):
            trial = oracle.create_trial("tuner0")
            expected.append(dict(trial.hyperparameters.values))
            oracle.update_trial(trial.trial_id, {"score": score_of(trial.hyperparameters.values)})
            trial.status = "COMPLETED"
            oracle.end_trial(trial)
    study = opened("grid")
    assert [one_trial(study) for _ in range(30)] == expected


def test_the_fast_process_predicts_what_scikit_learns_does():
    from bhsearch.engines.keras_tuner.oracles import _FastGaussianProcess, _quiet

    random = np.random.default_rng(0)
    points, scores = random.random((30, 6)), random.random(30)
    options = {"kernel": Matern(nu=2.5), "normalize_y": True, "alpha": 1e-4, "random_state": 3}
    with _quiet():
        ours, theirs = (
            made(**options).fit(points, scores) for made in (_FastGaussianProcess, GaussianProcessRegressor)
        )
    for where in (random.random((1, 6)), points[:1], random.random((5, 6)) * 10):
        for found, expected in zip(ours.predict(where, True), theirs.predict(where, True), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(ours.predict(points), theirs.predict(points))
    unfitted = _FastGaussianProcess(**options).predict(points[:2], return_std=True)
    np.testing.assert_array_equal(unfitted[0], 0.0)


def test_the_gaussian_process_finds_what_random_search_does_not(opened):
    """It is at work after the random beginning: its points are better than those it began with."""
    study = opened("bayesian")
    values = [score_of(one_trial(study)) for _ in range(24)]
    assert np.mean(values[18:]) > max(np.mean(values[:18]), np.percentile(values[:18], 80))


def test_five_failures_in_a_row_do_not_end_the_oracle(opened):
    """KerasTuner would raise at the third; when to give up is the study's to say."""
    study = opened("random")
    for _ in range(7):
        study.fail(study.ask().number, "it failed")
    assert len({str(trial.params) for trial in study.trials()}) == 7


def test_a_trial_that_could_not_be_kept_is_none(opened, monkeypatch):
    study = opened("random")
    expected = [one_trial(opened("random", name="alone")) for _ in range(1)]

    def full(entry):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(study._journal, "start", full)
        with pytest.raises(Exception, match="disk is full"):
            study.ask()
    assert study.trials() == []
    assert one_trial(study) == expected[0]


def test_it_never_prunes_and_knows_no_importances(opened):
    study = opened("random")
    trial = study.ask()
    assert not study.report(trial.number, IntermediateValue(0, 0.0, None))
    study.complete(trial.number, 0.5, 0.1)
    assert study.importances() == {}


def test_looking_and_ending_need_no_keras(tmp_path):
    study = open_study(tmp_path / DIRECTORY, "study", FACTS)
    KerasTunerEngine(study, SPACE, "random", 0).ask()
    code = (
        f"import os, sys; from tests.engines.engines import Place; os.chdir({str(tmp_path)!r});"
        "study = Place('keras-tuner', '').open('random');"
        "study.fail(study.trials()[0].number, 'its process died', dead=True);"
        "print({'keras', 'keras_tuner', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
    (trial,) = KerasTunerEngine(study, SPACE, "random", 0).trials()
    assert trial.notes["dead"]


def test_a_value_at_the_very_end_of_a_range_stays_inside():
    from bhsearch.engines.keras_tuner.oracles import _translated, _typed

    for row in SPACE:
        for parameter in _translated([row]).space:
            for share in (0.0, 1e-12, 0.5, 1 - 1e-12, 1.0):
                value = _typed(row, parameter.prob_to_value(share))
                assert row.holds(value)
    assert _typed(EPOCHS, EPOCHS.high + 1) == EPOCHS.high
