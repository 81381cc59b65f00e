"""What a person at the terminal reads while a study runs, and what a pipe gets."""

from __future__ import annotations

import pytest

from bhsearch.cli.progress import TerminalReporter, trial_line
from bhsearch.cli.result_table import print_result
from bhsearch.engines.base import Trial
from bhsearch.states import COMPLETE, FAILED
from bhsearch.study.events import StudyPlan
from tests.cli.printing import PARAMS, console, failed, result, text, trial


def test_the_plan_is_shown_with_its_warnings_and_what_makes_it_worthless():
    to = console()
    TerminalReporter(to).plan(StudyPlan([("data", "phantom: 71 images")], ["few cases"], ["Folds share cases."]))
    shown = text(to)
    assert "data  phantom: 71 images" in shown
    assert "Note: few cases" in shown
    assert "These numbers mean nothing: Folds share cases." in shown


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
