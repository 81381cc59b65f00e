"""Ranking trials: intervals, ties, and trials whose predictions are gone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bhsearch.engines.base import Trial
from bhsearch.evaluation.bootstrap import group_draws
from bhsearch.evaluation.metrics import trial_metrics
from bhsearch.evaluation.selection.bbc_cv import corrected_score
from bhsearch.states import COMPLETE, FAILED, PRUNED, RUNNING
from bhsearch.study.outcome.ranking import correct, rank
from bhsearch.study.outcome.result import StudyResult
from tests.evaluation.selection.test_bbc_cv import by_loops
from tests.evaluation.simulated import simulate
from tests.tasks.samples import BINARY

PARAMS = {"backbone": "staintex-s", "rate": 0.1}


@pytest.fixture(scope="module")
def predictions():
    """Three trials on one division: a good one, nearly the same, and one that guesses."""
    good = simulate(n_cases=40, largest=6)
    rng = np.random.default_rng(0)
    close = replace(good, probability=np.clip(good.probability + rng.normal(0, 0.005, good.probability.shape), 0, 1))
    guess = replace(good, probability=rng.uniform(size=good.probability.shape))
    return {0: guess, 1: good, 2: close}


def trial(number, value, state=COMPLETE):
    return Trial(number, state, PARAMS, value, {"seconds": 1.0})


@pytest.fixture(scope="module")
def records(predictions):
    scores = [trial(number, trial_metrics(p, BINARY)["auc"]) for number, p in predictions.items()]
    return [*scores, Trial(3, FAILED, PARAMS, None, {"reason": "it failed"}), Trial(4, RUNNING, PARAMS)]


def result(records, ranking, wanted=3, **changes):
    return StudyResult("study", "data", ranking, records, wanted, **changes)


def test_complete_trials_are_ranked_by_score_and_others_left_out(records, predictions):
    ranking = rank(records, predictions, BINARY)
    values = [row.trial.value for row in ranking]
    assert values == sorted(values, reverse=True)
    assert {row.trial.number for row in ranking} == {0, 1, 2}


def test_equal_scores_stand_in_the_order_of_their_numbers(predictions):
    assert [row.trial.number for row in rank([trial(2, 0.5), trial(0, 0.5), trial(1, 0.6)], {}, BINARY)] == [
        1,
        0,
        2,
    ]


def test_every_interval_holds_its_score(records, predictions):
    for row in rank(records, predictions, BINARY):
        assert row.low < row.trial.value < row.high


def test_what_cannot_be_told_from_the_best_is_tied_and_a_guess_is_not(records, predictions):
    tied = {row.trial.number: row.tied for row in rank(records, predictions, BINARY)}
    assert tied == {0: False, 1: True, 2: True}


def draw_by_draw(trials, draws):
    """The scores of trials under draws of cases: every fold by scikit-learn's AUC, cases weighted by their count."""
    found = np.full((len(trials), len(draws)), np.nan)
    for t, each in enumerate(trials):
        column = np.unique(each.group, return_inverse=True)[1]
        for d, counts in enumerate(draws):
            weight = counts[column] * each.weight[0]
            folds = [(each.fold[0] == k) & (weight > 0) for k in range(each.n_folds)]
            kept = [rows for rows in folds if len(np.unique(each.label[rows])) == 2]
            aucs = [roc_auc_score(each.label[r], each.probability[0, r], sample_weight=weight[r]) for r in kept]
            found[t, d] = np.mean(aucs) if aucs else np.nan
    return found


def test_the_count_of_ties_is_that_of_a_resampling_case_by_case(monkeypatch):
    """From predictions to the count, against a reference with scikit-learn's AUC and plain loops."""
    monkeypatch.setattr("bhsearch.study.outcome.ranking.N_DRAWS", 60)
    first, rng = simulate(n_cases=24, n_folds=3, largest=4), np.random.default_rng(3)
    noise = [0.0, 0.02, 0.05, 0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    trials = [
        replace(first, probability=np.clip(first.probability + n * rng.normal(size=first.probability.shape), 0, 1))
        for n in noise
    ]
    made = [trial(k, trial_metrics(each, BINARY)["auc"]) for k, each in enumerate(trials)]
    tied = {row.trial.number: row.tied for row in rank(made, dict(enumerate(trials)), BINARY)}
    samples = draw_by_draw(trials, group_draws(first.group, first.stratum, 60))
    scores = np.array([record.value for record in made])
    assert tied == dict(enumerate(by_loops(scores, samples[:, np.isfinite(samples).all(axis=0)])))
    assert 1 < sum(tied.values()) < len(tied)


def test_a_trial_without_predictions_has_no_interval_and_is_never_tied(records, predictions):
    ranking = rank(records, {number: p for number, p in predictions.items() if number != 0}, BINARY)
    (lost,) = [row for row in ranking if row.trial.number == 0]
    assert np.isnan(lost.low)
    assert np.isnan(lost.high)
    assert not lost.tied


def test_nothing_is_tied_where_the_bests_predictions_are_gone(records, predictions):
    """Tied with the second best is not what the word says."""
    best = rank(records, predictions, BINARY)[0].trial.number
    ranking = rank(records, {number: p for number, p in predictions.items() if number != best}, BINARY)
    assert not any(row.tied for row in ranking)


def test_no_trials_rank_to_nothing():
    assert rank([], {}, BINARY) == []
    empty = result([], [])
    assert empty.best is None
    assert empty.n_finished == 0
    assert len(empty.trials) == 0


def test_a_result_counts_what_is_finished_and_what_failed(records, predictions):
    made = result(records, rank(records, predictions, BINARY))
    assert made.n_finished == 3
    assert made.best.trial.value == max(record.value for record in records[:3])


def test_the_table_has_a_row_for_every_trial_and_a_column_for_every_parameter(records, predictions):
    table = result(records, rank(records, predictions, BINARY)).trials
    assert list(table["number"]) == [0, 1, 2, 3, 4]
    assert list(table["state"]) == [COMPLETE] * 3 + [FAILED, RUNNING]
    assert {"auc", "auc_low", "auc_high", "tied", "seconds", *PARAMS} <= set(table.columns)
    assert table["auc"][:3].tolist() == [record.value for record in records[:3]]
    assert table["auc"][3:].isna().all()


def test_the_best_score_is_corrected_over_all_complete_trials(records, predictions):
    corrected, why_not = correct(records, predictions, BINARY)
    assert corrected == corrected_score(list(predictions.values()), BINARY)
    assert corrected.raw == max(record.value for record in records[:3])
    assert why_not == ""


def test_pruned_trials_do_not_compete(records, predictions):
    pruned = Trial(5, PRUNED, PARAMS, 0.99)
    corrected, _ = correct([*records, pruned], predictions | {5: predictions[0]}, BINARY)
    assert corrected.n_trials == 3


def test_trials_of_the_study_that_it_was_started_from_compete_too(records, predictions):
    own = [record for record in records if record.number != 1]
    corrected, _ = correct(own, {n: p for n, p in predictions.items() if n != 1}, BINARY, [predictions[1]])
    assert corrected == corrected_score([predictions[0], predictions[2], predictions[1]], BINARY)


def test_a_search_of_which_a_part_is_lost_is_not_corrected(records, predictions):
    assert correct(records, {0: predictions[0]}, BINARY) == (
        None,
        "the predictions of 2 of 3 complete trials are not available",
    )
    assert correct([], {}, BINARY) == (None, "no trial is complete")


def test_too_few_cases_to_correct_are_said_and_not_raised(records, predictions):
    alone = {n: replace(p, stratum=p.group) for n, p in predictions.items()}
    corrected, why_not = correct(records, alone, BINARY)
    assert corrected is None
    assert "too few cases" in why_not
    assert not why_not.endswith(".")
