"""What a person at the terminal reads, and what a pipe gets."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bhsearch.evaluation.selection import CORRECTED_NOTE, Corrected
from bhsearch.progress import N_BEST, TerminalReporter, print_result, trial_line
from bhsearch.search.engine import Trial
from bhsearch.search.reporter import Plan
from bhsearch.search.result import Ranked, StudyResult
from bhsearch.states import COMPLETE, FAILED
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
    ranking = [Ranked(t, low, low if low != low else 0.95, k < n_tied) for k, t in enumerate(trials)]
    return StudyResult("study", "data", ranking, trials, wanted, **changes)


def printed(made: StudyResult, **options) -> str:
    to = console(**options)
    print_result(made, to)
    return text(to)


def test_the_plan_is_shown_with_its_warnings_and_what_makes_it_worthless():
    to = console()
    TerminalReporter(to).plan(Plan([("data", "phantom: 71 images")], ["few cases"], ["Folds share cases."]))
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
    TerminalReporter(to).plan(Plan([], [], ["Folds share cases."]))
    assert "\x1b[1;31mThese numbers mean nothing" in text(to)


@pytest.mark.parametrize("words", ["a [bold]folder[/]", "case [0-9]+", "[/]"])
def test_brackets_in_names_are_shown_as_they_are(words):
    """Folders, patterns and reasons hold what Rich takes for markup."""
    to = console()
    reporter = TerminalReporter(to)
    reporter.plan(Plan([("data", words)], [words], [words]))
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
    with reporter.step("Reading images") as progress:
        progress(1, 2)
    with reporter.trials(0, 2):
        reporter.trial(trial(0, 0.8), trial(0, 0.8))
        reporter.trial(failed(1), trial(0, 0.8))
    assert text(to).splitlines() == [
        "trial   0  0.8000 *   1.2 s  staintex-s, dihedral, mlp 16",
        f"trial   1  {FAILED}: it failed",
    ]


def test_a_terminal_gets_a_bar_with_best_and_time_left_that_goes_away():
    to = console(terminal=True)
    reporter = TerminalReporter(to)
    with reporter.step("Reading images") as progress:
        progress(1, 2)
    with reporter.trials(1, 3):
        reporter.trial(trial(1, 0.8), trial(1, 0.8))
        reporter._bar.refresh()
        assert "best 0.8000" in text(to)
        assert "s left" in text(to)
        assert "2/3" in text(to)
    assert "Reading images" in text(to)


def test_a_failed_trial_does_not_move_the_bar():
    to = console(terminal=True)
    reporter = TerminalReporter(to)
    with reporter.trials(0, 3):
        reporter.trial(failed(), None)
        reporter._bar.refresh()
        assert "0/3" in text(to)
        assert "no score yet" in text(to)
        assert "time left unknown" in text(to)


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
    assert "1 other trial" in shown
    assert "these scores chose it" in shown
    assert "mlflow ui" in shown


def test_only_the_best_few_are_shown():
    shown = printed(result(N_BEST + 3, wanted=3))
    assert str(0.9 - N_BEST / 100) not in shown


def test_a_result_that_is_not_all_says_how_to_go_on():
    assert "3 of 5 trials are finished; the same command goes on." in printed(result(wanted=5))
    assert "goes on" not in printed(result(wanted=3))


def test_a_result_of_synthetic_or_leaking_data_says_so_beside_the_numbers():
    shown = printed(result(note="Synthetic data (phantom)", invalid=("Folds share cases.",)))
    assert "Synthetic data (phantom)" in shown
    assert "These numbers mean nothing: Folds share cases." in shown


def test_lost_predictions_show_no_nan():
    shown = printed(result(low=NAN, n_tied=0))
    assert "nan" not in shown
    assert "not at hand" in shown


def test_no_complete_trial_is_said():
    assert "No trial is complete." in printed(result(0))


def test_the_result_ends_with_the_corrected_score_and_what_it_does_not_remove():
    shown = printed(result(corrected=Corrected(0.9, 0.8512, 0.741, 0.932, 50, 61)), width=150)
    assert "Corrected for having searched: 0.8512  [0.741 0.932]  instead of 0.9000 (50 trials)" in shown
    assert CORRECTED_NOTE in shown


def test_a_correction_that_is_not_at_hand_says_why():
    shown = printed(result(uncorrected="the predictions of [2] trials are not at hand"), width=150)
    assert "Corrected for having searched: not at hand, since the predictions of [2] trials are not at hand." in shown


def test_the_links_to_mlflow_are_whole_lines(monkeypatch):
    """However narrow the terminal is: a link that is broken over two lines cannot be opened."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    urls = (links.trials_url("7"), links.parallel_url("7"))
    lines = printed(result(links=urls), width=40).splitlines()
    assert lines[-3:] == ["Next:  mlflow ui", f"Trials: {urls[0]}", f"Parallel coordinates: {urls[1]}"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert "mlflow ui" not in printed(result(links=urls))  # the server shows its own page
