"""What a person reads at the end of a study."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from bhsearch.cli.result_table import CAVEATS, N_BEST, next_commands, print_result
from bhsearch.engines.base import Trial
from bhsearch.evaluation.selection.bbc_cv import CorrectedScore
from bhsearch.evaluation.selection.nested import NestedScore
from bhsearch.models.augmentation.shifts import SHIFTS
from bhsearch.states import PRUNED
from bhsearch.tracking import links
from tests.cli.printing import NAN, PARAMS, console, printed, result, text
from tests.reporting.reports import ROBUST


def test_errors_in_the_data_stand_beside_the_result():
    assert "Note: Pictures repeated within a case: 36." in printed(
        result(findings=("Pictures repeated within a case: 36.",))
    )


def test_robustness_is_shown_in_eighty_columns():
    shown = printed(result(robustness={0: ROBUST, 2: ROBUST}), width=80)
    (row,) = (line for line in shown.splitlines() if line.split()[:2] == ["2", "default"])
    assert row.split() == ["2", "default", "brightness", "x0.7", "0.8000", "-0.035", "-0.012", "-0.081", "12%"]
    assert "brightness x0.7  0.7654  -0.035     -0.081     23%" in shown
    assert max(map(len, shown.split("Robustness")[1].split("Next:")[0].splitlines())) <= 80
    for name in SHIFTS:  # no cell is cut, whichever shift is the worst
        worst = replace(ROBUST, shifts={name: ROBUST.shifts["brightness"]})
        (row,) = (line for line in printed(result(robustness={1234: worst}), width=80).splitlines() if "1234" in line)
        assert SHIFTS[name].title in row
        assert row.split()[-5:] == ["0.8000", "-0.035", "-0.035", "-0.081", "23%"]
    assert "Robustness" not in printed(result())


def test_robustness_that_was_not_computed_has_its_reason():
    assert "Robustness was not computed: the search ended early." in printed(
        result(no_robustness="the search ended early")
    )


def test_the_result_shows_the_best_with_intervals_and_who_is_tied():
    shown = printed(result())
    rows = shown[shown.index("trial  AUC") :].splitlines()[1:4]
    assert [row.split()[:2] for row in rows] == [["0", "0.9000"], ["1", "0.8900"], ["2", "0.8800"]]
    assert "[0.700 0.950]" in rows[0]
    assert [("tied" in row) for row in rows] == [True, True, False]
    assert "2 of 3 trials are tied with the best." in shown


@pytest.mark.parametrize(
    ("n", "n_tied", "words"),
    [
        (30, 27, "27 of 30 trials are tied with the best."),
        (3, 1, "None of the other 2 trials is tied with the best."),
        (2, 1, "The other trial is not tied with the best."),
        (1, 1, "There is no other complete trial to compare it with."),
        (3, 0, "The trials tied with the best are not known, because its predictions are not available."),
    ],
)
def test_ties_are_counted_with_the_best_among_all_complete_trials(n, n_tied, words):
    assert words in printed(result(n, n_tied=n_tied, wanted=n))


def test_pruned_trials_are_no_part_of_the_count_of_ties():
    made = result(3, n_tied=2)
    pruned = Trial(3, PRUNED, PARAMS, None, {})
    assert "2 of 3 complete trials are tied" in printed(replace(made, records=[*made.records, pruned]))


def test_a_search_of_one_trial_is_counted_in_the_singular():
    shown = printed(result(corrected=CorrectedScore(0.9, 0.85, 0.74, 0.93, 0.77, 1, 61)))
    assert any(line.rstrip().endswith("after a search of 1 trial") for line in shown.splitlines())


def test_the_proposed_trial_is_shown_in_full_with_the_corrected_score_first():
    made = result(corrected=CorrectedScore(0.9, 0.8512, 0.741, 0.932, 0.772, 50, 61))
    params = PARAMS | {"learning_rate": 0.0123456789, "tta": False}
    made.ranking[0] = replace(made.ranking[0], trial=replace(made.ranking[0].trial, params=params))
    lines = [line.split(None, 1) for line in printed(made).splitlines()]
    start = lines.index(["Proposed:", "trial 0"])
    assert [[key, value.rstrip()] for key, value in lines[start + 1 : start + 9]] == [
        ["corrected", "AUC  0.8512  [0.741 0.932]  after a search of 50 trials"],
        ["lower", "bound    0.772  one-sided, adjusted for the search (MABT)"],
        ["AUC", "0.9000  [0.700 0.950]"],
        ["backbone", "staintex-s"],
        ["policy", "dihedral"],
        ["hidden_units", "16"],
        ["learning_rate", "0.01235"],
        ["tta", "False"],
    ]


def test_a_bound_that_is_not_known_is_left_out():
    made = result(corrected=CorrectedScore(0.9, 0.8512, 0.741, 0.932, float("nan"), 50, 61))
    assert "lower bound" not in printed(made)
    assert "nan" not in printed(made)


def test_the_nested_search_stands_below_the_corrected_score():
    corrected = CorrectedScore(0.9, 0.8512, 0.741, 0.932, 0.772, 50, 61)
    lines = printed(result(corrected=corrected, nested=NestedScore(0.8111, 0.7, 0.9, 50, 5))).splitlines()
    (place,) = (number for number, line in enumerate(lines) if "nested AUC" in line)
    assert " ".join(lines[place].split()) == "nested AUC 0.8111 [0.700 0.900] 5 searches of 50 trials"
    assert "lower bound" in lines[place - 1]
    shown = printed(result(no_nested="the search ended early"))
    assert "The nested search has no score: the search ended early." in shown


def test_caveats_are_two_short_dim_lines():
    shown = printed(result(corrected=CorrectedScore(0.9, 0.8512, 0.741, 0.932, 0.772, 50, 61)), terminal=True, width=80)
    assert len(CAVEATS) == 2
    for sentence in CAVEATS:
        assert f"\x1b[2m{sentence}\x1b[0m\n" in shown


def test_the_result_ends_with_time_links_and_three_commands():
    shown = printed(result(links=("http://127.0.0.1:5000/#/" + "x" * 100,)), width=80)
    assert shown.endswith(
        "Next:\n  mlflow ui\n  python -m bhsearch.report --study study\n  python -m bhsearch.register --study study\n"
    )
    assert f"\nTrials: http://127.0.0.1:5000/#/{'x' * 100}\n" in shown
    to = console()
    print_result(result(), to, seconds=3725)
    assert "Total time: 1 h 2 min" in text(to)


def test_commands_name_the_study_as_a_shell_takes_it(monkeypatch):
    assert next_commands(replace(result(), study="it's mine"))[1].endswith(""" --study 'it'"'"'s mine'""")
    assert next_commands(replace(result(), study="-x"))[2].endswith(" --study=-x")


def test_commands_are_not_broken_in_a_narrow_terminal():
    made = replace(result(), study="a-study-with-a-long-name-of-its-own")
    shown = printed(made, terminal=True, width=40)
    for command in next_commands(made):
        assert f"  {command}\n" in shown


def test_without_tracking_no_command_is_named_that_would_fail():
    shown = printed(result(tracked=False))
    assert "no run to view" in shown
    assert "Next" not in shown
    assert "mlflow ui" not in shown


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("name", ["staintex-l", "efficientnetv2-b3", "my-own-network-of-the-lab"])
def test_backbone_names_are_whole_at_any_width(width, name):
    made = result()
    for row in made.records:
        row.params["backbone"] = name
    try:
        shown = printed(made, terminal=True, width=width)
    finally:
        PARAMS["backbone"] = "staintex-s"
    table = shown[: shown.index("Proposed:")]
    assert table.count(name) == 3
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", table).splitlines())) <= width


def test_only_the_best_few_are_shown():
    shown = printed(result(N_BEST + 3, wanted=3))
    assert str(0.9 - N_BEST / 100) not in shown


def test_a_result_that_is_not_all_says_how_to_go_on():
    assert "3 of 5 trials are finished; the same command continues the study." in printed(result(wanted=5))
    assert "continues" not in printed(result(wanted=3))


def test_a_result_of_synthetic_or_leaking_data_says_so_beside_the_numbers():
    shown = printed(result(note="Synthetic data (phantom)", invalid=("Folds share cases.",)))
    assert "Synthetic data (phantom)" in shown
    assert "These numbers mean nothing: Folds share cases." in shown


def test_lost_predictions_show_no_nan():
    shown = printed(result(low=NAN, n_tied=0))
    assert "nan" not in shown
    assert "not available" in shown


def test_no_complete_trial_is_said():
    shown = printed(result(0))
    assert "No trial is complete." in shown
    assert "Next" not in shown


def test_scores_that_are_odd_are_remarked_on():
    assert "Note: The intervals of all 3 trials hold 0.5" in printed(result(low=0.4))


def test_a_correction_that_is_not_at_hand_says_why():
    shown = printed(result(uncorrected="the predictions of [2] trials are not available"), width=150)
    assert "corrected AUC  not known, since the predictions of [2] trials are not available" in shown
    assert CAVEATS[1] not in shown


def test_the_links_to_mlflow_are_whole_lines(monkeypatch):
    """However narrow the terminal is: a link that is broken over two lines cannot be opened."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    urls = (links.trials_url("7"), links.parallel_url("7"))
    lines = printed(result(links=urls), width=40).splitlines()
    at = lines.index(f"Trials: {urls[0]}")
    assert lines[at + 1] == f"Parallel coordinates: {urls[1]}"
