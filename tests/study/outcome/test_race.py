"""The race of the best trials: its divisions, its scores, and which trial is proposed after it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import bhsearch
from bhsearch.engines.base import Trial
from bhsearch.errors import SettingsError
from bhsearch.evaluation.metrics import score
from bhsearch.objectives.base import MS_PER_IMAGE
from bhsearch.states import COMPLETE
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.outcome.race import check_race, race, race_images
from bhsearch.study.outcome.ranking import rank
from bhsearch.study.outcome.selection import contenders, explanation, proposed_of
from bhsearch.tracking import keys
from tests.evaluation.simulated import simulate
from tests.studies import Store, import_mlflow, search, settings, tracked_search
from tests.tasks.samples import BINARY


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"race_divisions": -1}, "--race-divisions must be from 0 to 20, but got -1"),
        ({"race_divisions": 21}, "--race-divisions must be from 0 to 20, but got 21"),
        ({"race_divisions": 2, "regime": "finetune"}, "requires --regime frozen or auto, but got --regime finetune"),
        ({"race_divisions": 2, "repeats": 3}, "requires --repeats 1, but got --repeats 3"),
        ({"race_divisions": 2, "keep_models": "best:4"}, "best:5 or more, but got best:4"),
    ],
)
def test_a_race_that_cannot_be_held_is_refused_before_anything_is_made(here, changes, words):
    with pytest.raises(SettingsError, match=words):
        search(**changes)
    assert list(here.iterdir()) == []


def test_what_can_be_raced_is_not_refused():
    for changes in ({}, {"repeats": 3}, {"race_divisions": 20, "keep_models": "best:5"}, {"race_divisions": 1}):
        check_race(settings(**changes))


def test_the_divisions_begin_with_that_of_the_study_and_depend_on_no_seed():
    made = StudyContext.build(settings(race_divisions=3), ProgressReporter())
    images = race_images(made)
    assert images.fold.shape == (4, len(made.images))
    assert (images.fold[0] == made.images.fold[0]).all()
    assert len({row.tobytes() for row in images.fold}) == 4
    again = race_images(StudyContext.build(settings(race_divisions=3, seed=7), ProgressReporter()))
    assert (again.fold == images.fold).all()


def test_too_few_cases_for_the_divisions_are_said_before_the_first_trial(here):
    with pytest.raises(SettingsError, match="--race-divisions 20 is too large for these cases"):
        search(data="phantom:cases=6,images=2", folds=2, test_fraction=0.3, race_divisions=20)
    assert not list(here.glob("*.db"))


def simulated(n, n_divisions=3):
    """Predictions of trials on several divisions, and those on the first one alone."""
    base, rng = simulate(n_cases=40, largest=5, n_repeats=n_divisions), np.random.default_rng(4)
    shape = (n, *base.probability.shape)
    raced = [replace(base, probability=np.clip(base.probability + each, 0, 1)) for each in rng.normal(0, 0.15, shape)]
    alone = [replace(each, probability=each.probability[:1], fold=each.fold[:1]) for each in raced]
    return dict(enumerate(raced)), dict(enumerate(alone))


def records_of(alone, costs):
    return [
        Trial(number, COMPLETE, {"backbone": f"b{number}"}, score(each, BINARY), {MS_PER_IMAGE: costs[number]})
        for number, each in alone.items()
    ]


def test_only_raced_trials_are_proposed_by_their_score_on_all_divisions():
    raced, alone = simulated(8)
    costs = [1.0] * 8
    records = records_of(alone, costs)
    five = {trial.number: raced[trial.number] for trial in contenders(records)}
    assert len(five) == 5
    ranking = rank(records, alone, BINARY, five)
    assert [row.trial.number for row in ranking] == [row.trial.number for row in rank(records, alone, BINARY)]
    overall = {number: np.mean([score(one_of(each, k), BINARY) for k in range(3)]) for number, each in five.items()}
    for row in ranking:
        if row.trial.number in five:
            assert row.raced == pytest.approx(overall[row.trial.number], abs=1e-9)
        else:
            assert np.isnan(row.raced)
    chosen = proposed_of(ranking)
    assert chosen.trial.number == max(overall, key=overall.get)
    assert chosen.trial.number != ranking[0].trial.number  # else the race changed nothing
    (said,) = explanation(ranking, None)
    assert said.startswith(f"Trial {ranking[0].trial.number} has the best score, {ranking[0].value:.4f}. The 5 best ")
    assert said.endswith(f"its score over all divisions, {chosen.raced:.4f}, is the best.")


def one_of(predictions, repeat):
    only = slice(repeat, repeat + 1)
    return replace(predictions, probability=predictions.probability[only], fold=predictions.fold[only])


def test_of_raced_trials_that_are_tied_the_cheapest_is_proposed():
    raced, alone = simulated(2)
    close = replace(raced[0], probability=np.clip(raced[0].probability + np.float32(1e-4), 0, 1))
    predictions, pair = {0: alone[0], 1: one_of(close, 0)}, {0: raced[0], 1: close}
    for cheap in (0, 1):
        costs = [1.0 if number == cheap else 2.0 for number in (0, 1)]
        ranking = rank(records_of(predictions, costs), predictions, BINARY, pair)
        assert proposed_of(ranking).trial.number == cheap


def test_a_race_among_other_trials_does_not_count():
    """Trials were added after it: the best of now were not all raced."""
    raced, alone = simulated(8)
    records = records_of(alone, [1.0] * 8)
    others = {trial.number: raced[trial.number] for trial in records if trial not in contenders(records)[:2]}
    without = rank(records, alone, BINARY)
    found = rank(records, alone, BINARY, others)
    assert [(row.trial.number, row.proposed) for row in found] == [(row.trial.number, row.proposed) for row in without]
    assert all(np.isnan(row.raced) for row in found)


def test_a_raced_study_proposes_the_same_trial_in_its_session_and_from_the_store(here, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    import_mlflow()
    result = tracked_search(trials=6, race_divisions=2)
    again = race(StudyContext.build(settings(race_divisions=2), ProgressReporter()), result.records, ProgressReporter())
    assert set(again) == {trial.number for trial in contenders(result.records)}
    assert len(again) == 5
    for row in result.ranking:
        if row.trial.number in again:
            predictions = again[row.trial.number]
            assert score(one_of(predictions, 0), BINARY) == pytest.approx(row.value, abs=1e-6)  # division 1: the search
            assert row.raced == pytest.approx(score(predictions, BINARY), abs=1e-6)
        else:
            assert np.isnan(row.raced)
    assert result.proposed.trial.number in again
    loaded = bhsearch.load_study(quiet=True)
    shown = [[(row.trial.number, row.proposed) for row in each.ranking] for each in (result, loaded)]
    assert shown[0] == shown[1]
    assert loaded.selected_because() == result.selected_because()
    parent = Store(here).parent()
    assert parent.data.tags[keys.PROPOSED_TRIAL] == str(result.proposed.trial.number)
    files = Store(here).files(parent)
    assert {name for name in files if re.fullmatch(r"race/.*\.csv", name)} == {
        keys.race_file(number) for number in again
    }
    from bhsearch.lifecycle.ranking import proposed_trial
    from bhsearch.tracking import reader

    assert proposed_trial(reader.find_study(Store(here).client)).number == result.proposed.trial.number
