"""A study's end as a record: JSON, and a note that a person reads in MLflow."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from bhsearch.engines.base import Trial
from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.evaluation.selection.bbc_cv import CORRECTED_NOTE, CorrectedScore
from bhsearch.objectives.space import finetune_space
from bhsearch.states import COMPLETE, FAILED
from bhsearch.study.outcome.result import StudyResult
from bhsearch.study.outcome.selection import RankedTrial
from bhsearch.study.outcome.summary import LARGE, N_BEST, expected_improvement, remarks, summary_record

NAN = float("nan")


def study(n_complete=2, *, wanted=2, failed=0, interrupted=False, low=0.5, note="", invalid=()):
    trials = [Trial(k, COMPLETE, {"backbone": "b"}, 0.9 - k / 100, {"seconds": 1.0}) for k in range(n_complete)]
    trials += [Trial(n_complete + k, FAILED, {"backbone": "b"}, None, {"reason": "it failed"}) for k in range(failed)]
    ranking = [
        RankedTrial(t, low, low if low != low else 0.95, k < 2, k == 0) for k, t in enumerate(trials[:n_complete])
    ]
    return StudyResult("study", "data", ranking, trials, wanted, note, invalid, "run", interrupted)


def test_the_record_is_json_and_holds_every_trial():
    record = summary_record(study(failed=1), {"backbone": 1.0}, {}, policies=["stain"], settled=[0])
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert [trial["number"] for trial in record["trials"]] == [0, 1, 2]
    assert record["importances"] == {"backbone": 1.0}
    assert record["importance_spread"] == {}
    assert summary_record(study(), {}, {"backbone": 0.2})["importance_spread"] == {"backbone": 0.2}
    assert record["finished"] == 2
    assert set(record["log"]) == {row.name for row in finetune_space(("",), (32,)) if row.log}


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (study(2, wanted=2), "FINISHED"),
        (study(3, wanted=2), "FINISHED"),
        (study(1, wanted=2, interrupted=True), "KILLED"),
        (study(1, wanted=2, failed=5), "FAILED"),
        (study(2, wanted=2, interrupted=True), "FINISHED"),
    ],
)
def test_the_status_says_how_it_ended(made, status):
    assert summary_record(made, {}, {})["status"] == status


def test_the_best_are_few_and_only_those_with_an_interval():
    assert len(summary_record(study(N_BEST + 5, wanted=99), {}, {})["best"]) == N_BEST
    assert summary_record(study(low=NAN), {}, {})["best"] == []


def test_the_note_says_score_interval_ties_and_what_it_is_not_for():
    text = summary_record(study(), {}, {})["summary"]
    assert "| 0 | 0.9000 | 0.500 to 0.950 |" in text
    assert DISCLAIMER in text
    assert "looks better than it is" in text
    assert text.count("| tied") + text.count("| yes") >= 2


def test_synthetic_and_leaking_studies_say_so_first():
    text = summary_record(study(note="Synthetic data (phantom)", invalid=("Folds share cases.",)), {}, {})["summary"]
    assert text.startswith("**Synthetic data (phantom).**\n**Folds share cases.**\n")


def test_a_study_without_a_complete_trial_has_a_note_too():
    record = summary_record(study(0, failed=3), {}, {})
    assert record["best"] == []
    assert record["summary"].startswith("0 finished trials")


def test_lost_predictions_do_not_put_nan_into_the_note():
    assert "nan" not in summary_record(study(low=NAN), {}, {})["summary"]


def test_the_corrected_score_stands_in_record_and_note():
    corrected = CorrectedScore(0.91, 0.8512, 0.741, 0.932, 0.772, 50, 61)
    record = summary_record(replace(study(), corrected=corrected), {}, {})
    assert record["corrected"] == asdict(corrected)
    assert "**0.8512** (0.741 to 0.932) instead of 0.9100, over 50 trials." in record["summary"]
    assert CORRECTED_NOTE in record["summary"]
    assert "Lower bound of the score: **0.772** (one-sided" in record["summary"]
    unbounded = replace(corrected, bound=NAN)
    assert "ower bound" not in summary_record(replace(study(), corrected=unbounded), {}, {})["summary"]


def test_a_correction_that_is_not_at_hand_says_why():
    record = summary_record(
        replace(study(), uncorrected="the predictions of 2 of 3 complete trials are not available"),
        {},
        {},
        policies=[],
        settled=[],
    )
    assert record["corrected"] is None
    assert "not available, since the predictions of 2 of 3" in record["summary"]
    assert CORRECTED_NOTE not in record["summary"]


def scored(values, low, high):
    trials = [Trial(k, COMPLETE, {"backbone": "b"}, value, {"seconds": 1.0}) for k, value in enumerate(values)]
    best_first = sorted(trials, key=lambda trial: -trial.value)
    ranking = [RankedTrial(t, low, high, True, k == 0) for k, t in enumerate(best_first)]
    return StudyResult("study", "data", ranking, trials, len(trials))


RISING = [0.5 + k / 100 for k in range(16)]


def test_more_trials_are_advised_only_where_their_gain_is_large_against_the_interval():
    gain = scored(RISING, 0.6, 0.7).expected_gain
    edge = gain / LARGE
    (said,) = expected_improvement(scored(RISING, 0.6, 0.6 + 0.99 * edge))
    assert f"As many trials again would raise the best AUC by about {gain:.4f}" in said
    (said,) = expected_improvement(scored(RISING, 0.6, 0.6 + 1.01 * edge))
    assert "As many trials again" not in said
    assert "more cases or --repeats would help" in said


def test_nothing_is_said_of_more_trials_after_few_or_without_an_interval():
    assert expected_improvement(scored(RISING[:3], 0.6, 0.7)) == []
    assert expected_improvement(scored(RISING, NAN, NAN)) == []
    assert expected_improvement(scored([], 0.0, 1.0)) == []


def test_an_auc_far_below_guessing_is_remarked_on():
    assert remarks(scored([0.8, 0.7], 0.6, 0.9)) == []
    assert remarks(scored([0.8, 0.41], 0.6, 0.9)) == []
    (said,) = remarks(scored([0.8, 0.39, 0.2], 0.6, 0.9))
    assert said.startswith("2 of 3 trials have an AUC below 0.4")
    assert "labels swapped" in said
    assert remarks(scored([0.3], 0.1, 0.4))[0].startswith("1 of 1 trial has an AUC below 0.4")


def test_a_study_at_chance_is_remarked_on():
    (said,) = remarks(scored([0.55, 0.52], 0.45, 0.65))
    assert said.startswith("The intervals of all 2 trials hold 0.5")
    assert "nothing to find" in said
    assert remarks(scored([0.55, 0.52], 0.51, 0.65)) == []
    assert remarks(scored([0.55], NAN, NAN)) == []
    assert remarks(scored([0.55], 0.4, 0.6))[0].startswith("The interval of the only trial holds 0.5")


def test_a_correction_that_raises_the_score_is_remarked_on():
    corrected = CorrectedScore(0.9, 0.91, 0.8, 0.95, 0.79, 2, 40, 0.0)
    (said,) = remarks(replace(study(low=0.6), corrected=corrected))
    assert said.startswith("The corrected AUC is above the AUC itself")
    assert remarks(replace(study(low=0.6), corrected=replace(corrected, score=0.89))) == []


def test_remarks_stand_in_the_note():
    assert "labels swapped" in summary_record(scored([0.8, 0.2], 0.6, 0.9), {}, {})["summary"]
