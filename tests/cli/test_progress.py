"""What a person at the terminal reads, and what a pipe gets."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from bhsearch.cli.progress import CAVEATS, N_BEST, TerminalReporter, next_commands, print_result, trial_line
from bhsearch.engines.base import Trial
from bhsearch.evaluation.bbc_cv import CorrectedScore
from bhsearch.states import COMPLETE, FAILED, PRUNED
from bhsearch.study.events import StudyPlan
from bhsearch.study.result import RankedTrial, StudyResult
from bhsearch.tracking import links

PARAMS = {"backbone": "staintex-s", "policy": "dihedral", "hidden_units": 16}
NAN = float("nan")


def console(terminal: bool = False, width: int = 100) -> Console:
    colours = "standard" if terminal else None
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, highlight=False, color_system=colours)


def text(of: Console) -> str:
    return of.file.getvalue()


def trial(number=0, value=0.8):
    return Trial(number, COMPLETE, PARAMS, value, {"seconds": 1.25})


def failed(number=0, reason="it failed"):
    return Trial(number, FAILED, PARAMS, None, {"reason": reason})


def result(n=3, *, n_tied=2, wanted=3, low=0.7, **changes):
    trials = [trial(k, 0.9 - k / 100) for k in range(n)]
    ranking = [RankedTrial(t, low, low if low != low else 0.95, k < n_tied) for k, t in enumerate(trials)]
    return StudyResult("study", "data", ranking, trials, wanted, **changes)


def printed(made: StudyResult, **options) -> str:
    to = console(**options)
    print_result(made, to)
    return text(to)


def test_the_plan_is_shown_with_its_warnings_and_what_makes_it_worthless():
    to = console()
    TerminalReporter(to).plan(StudyPlan([("data", "phantom: 71 images")], ["few cases"], ["Folds share cases."]))
    shown = text(to)
    assert "data  phantom: 71 images" in shown
    assert "Note: few cases" in shown
    assert "These numbers mean nothing: Folds share cases." in shown


def test_errors_in_the_data_stand_beside_the_result():
    assert "Note: Pictures repeated within a case: 36." in printed(
        result(findings=("Pictures repeated within a case: 36.",))
    )


def test_what_makes_numbers_worthless_is_red():
    to = console(terminal=True)
    TerminalReporter(to).plan(StudyPlan([], [], ["Folds share cases."]))
    assert "\x1b[1;31mThese numbers mean nothing" in text(to)


@pytest.mark.parametrize("words", ["a [bold]folder[/]", "case [0-9]+", "[/]"])
def test_brackets_in_names_are_shown_as_they_are(words):
    """Folders, patterns and reasons hold what Rich takes for markup."""
    to = console()
    reporter = TerminalReporter(to)
    reporter.plan(StudyPlan([("data", words)], [words], [words]))
    reporter.say(words)
    reporter.trial(failed(reason=words), None)
    print_result(result(note=words), to)
    assert text(to).count(words) == 6


def test_a_trial_is_one_line_with_score_seconds_and_main_choices():
    assert trial_line(trial(7, 0.81234), False).plain == "trial   7  0.8123     1.2 s  staintex-s, dihedral, mlp 16"
    assert "0.8123 *" in trial_line(trial(7, 0.81234), True).plain
    linear = Trial(0, COMPLETE, PARAMS | {"hidden_units": 0}, 0.5, {"seconds": 1.0})
    assert trial_line(linear, False).plain.endswith("linear")


def test_a_failed_trial_says_its_reason():
    assert trial_line(failed(3), False).plain == f"trial   3  {FAILED}: it failed"


def test_a_pipe_gets_plain_lines_and_no_bar():
    to = console()
    reporter = TerminalReporter(to)
    with reporter.step("reading images") as progress:
        progress(1, 2)
    with reporter.trials(0, 2):
        reporter.began(0)
        reporter.doing("training heads")
        reporter.trial(trial(0, 0.8), trial(0, 0.8))
        reporter.trial(failed(1), trial(0, 0.8))
    assert text(to).splitlines() == [
        "trial   0  0.8000 *   1.2 s  staintex-s, dihedral, mlp 16",
        f"trial   1  {FAILED}: it failed",
    ]


def screen(reporter: TerminalReporter, width: int = 100) -> str:
    """What is drawn in place at the moment."""
    to = console(width=width)
    reporter._display._console = to
    to.print(reporter._display.render())
    return text(to)


def test_steps_are_named_with_how_far_they_are_and_how_long_they_take():
    reporter = TerminalReporter(console())
    with reporter.step("reading images") as progress:
        progress(300, 476)
        assert screen(reporter).strip() == "reading images 300/476, 0 s"
        with reporter.step("drawing the phantom"):
            assert screen(reporter).strip() == "drawing the phantom, 0 s"
            reporter.doing("fold 1 of 2")
            assert screen(reporter).strip() == "drawing the phantom, fold 1 of 2, 0 s"
        assert screen(reporter).strip() == "reading images 300/476, 0 s"
    assert screen(reporter).strip() == ""


def test_a_running_study_shows_best_time_left_and_what_the_trial_heard_of_last_is_doing():
    reporter = TerminalReporter(console())
    with reporter.trials(1, 3):
        assert "1/3 trials, no score yet, time left unknown" in screen(reporter)
        for number in (1, 2):
            reporter.began(number)
        reporter.doing("fold 2 of 5, epoch 4 of 6", 1)
        assert "trial 1: fold 2 of 5, epoch 4 of 6, 0 s" in screen(reporter)
        reporter.doing("training heads")
        assert "trial 1: training heads, 0 s" in screen(reporter)
        reporter.trial(trial(1, 0.8), trial(1, 0.8))
        assert "2/3 trials, best 0.8000, 0 s left" in screen(reporter)
        assert "trial 2, 0 s" in screen(reporter)
        reporter.trial(failed(2), trial(1, 0.8))
        assert "2/3 trials" in screen(reporter)
        assert "trial 2" not in screen(reporter)
        reporter.trial(trial(3, 0.7), trial(1, 0.8))
        assert "3/3 trials, best 0.8000, waiting for workers to end" in screen(reporter)
    with reporter.trials(3, 4, trial(1, 0.8)):
        assert "3/4 trials, best 0.8000, time left unknown" in screen(reporter)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_what_is_drawn_in_place_stays_on_its_lines(width):
    reporter = TerminalReporter(console())
    with reporter.trials(1, 300):
        reporter.began(1)
        reporter.doing("computing features of mobilenet-0.75: 120/365, view 2 of 4")
        lines = screen(reporter, width).splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= width


def test_a_long_line_is_not_broken_in_a_pipe():
    """A line a trial: what reads the pipe counts on it."""
    to = console(width=40)
    TerminalReporter(to).trial(failed(reason="word " * 30), None)
    assert len(text(to).splitlines()) == 1


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
    assert "after a search of 1 trial\n" in printed(result(corrected=CorrectedScore(0.9, 0.85, 0.74, 0.93, 1, 61)))


def test_the_best_trial_is_shown_in_full_with_the_corrected_score_first():
    made = result(corrected=CorrectedScore(0.9, 0.8512, 0.741, 0.932, 50, 61))
    params = PARAMS | {"learning_rate": 0.0123456789, "tta": False}
    made.ranking[0] = replace(made.ranking[0], trial=replace(made.ranking[0].trial, params=params))
    lines = [line.split(None, 1) for line in printed(made).splitlines()]
    start = lines.index(["Best:", "trial 0"])
    assert [[key, value.rstrip()] for key, value in lines[start + 1 : start + 8]] == [
        ["corrected", "AUC  0.8512  [0.741 0.932]  after a search of 50 trials"],
        ["AUC", "0.9000  [0.700 0.950]"],
        ["backbone", "staintex-s"],
        ["policy", "dihedral"],
        ["hidden_units", "16"],
        ["learning_rate", "0.01235"],
        ["tta", "False"],
    ]


def test_caveats_are_two_short_dim_lines():
    shown = printed(result(corrected=CorrectedScore(0.9, 0.8512, 0.741, 0.932, 50, 61)), terminal=True, width=80)
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
    table = shown[: shown.index("Best:")]
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
