"""What is shown while something goes on: in place at a terminal, lines now and then elsewhere."""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from bhsearch.cli import live_display, terminal
from bhsearch.cli.live_display import Display
from bhsearch.models import backend

CONTROL = {"\x1b", "\r", "\b"}


def console(is_terminal: bool = False, **options) -> Console:
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=100, highlight=False, **options)


@pytest.fixture
def quick(monkeypatch):
    """The same in hundredths of the time."""
    for name in ("SILENT_SECONDS", "LINE_SECONDS", "_LOOK_SECONDS"):
        monkeypatch.setattr(live_display, name, getattr(live_display, name) / 20)


def test_a_log_file_gets_lines_and_no_control_characters(quick):
    to, count = console(), iter(range(10_000))
    with Display(to, lambda: ["heading", f"reading images {next(count)}"]).shown():
        time.sleep(3 * live_display.LINE_SECONDS)
    lines = to.file.getvalue().splitlines()
    assert 1 <= len(lines) <= 3
    assert all(line.startswith("reading images ") for line in lines)
    assert not CONTROL & set(to.file.getvalue())


def test_a_log_file_gets_nothing_while_other_lines_come(quick):
    to = console()
    display = Display(to, lambda: ["reading images"])
    with display.shown():
        for _ in range(10):
            time.sleep(live_display.SILENT_SECONDS / 4)
            display.printed()
    assert to.file.getvalue() == ""


def test_a_line_that_cannot_be_written_stops_nothing(quick):
    """Warnings are errors here, and pytest warns of an exception in a thread."""
    no_space = pytest.raises(OSError, match="No space left")  # when the file is closed
    with no_space, Path("/dev/full").open("w") as full, Display(Console(file=full), lambda: ["reading images"]).shown():
        time.sleep(2 * live_display.SILENT_SECONDS)


def test_a_notebook_and_a_dumb_terminal_get_lines(monkeypatch):
    """Rich draws in a notebook with ipywidgets only, and warns without them."""
    assert Display(console(True), list).redraws
    assert not Display(console(True, force_jupyter=True), list).redraws
    monkeypatch.setenv("TERM", "dumb")
    assert not Display(console(True), list).redraws


def test_a_terminal_is_left_clean():
    to = console(True)
    with Display(to, lambda: ["starting TensorFlow"]).shown():
        pass
    assert "starting TensorFlow" in to.file.getvalue()
    assert to.file.getvalue().endswith("\x1b[2K")  # the last line is erased


def test_standard_output_is_not_redirected_to_the_screen(capsys):
    """Rows of predictions go there while progress is drawn on the error stream."""
    to = console(True)
    with Display(to, lambda: ["predicting"]).shown():
        print("a row")
    assert capsys.readouterr().out == "a row\n"
    assert "a row" not in to.file.getvalue()


def test_an_error_in_the_block_ends_the_display(quick):
    to = console()
    display = Display(to, lambda: ["reading images"])
    with pytest.raises(KeyboardInterrupt), display.shown():
        raise KeyboardInterrupt
    time.sleep(2 * live_display.SILENT_SECONDS)
    assert to.file.getvalue() == ""


def test_progress_on_the_error_stream_is_seen_while_libraries_are_kept_quiet(capfd, monkeypatch):
    with open(2, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with terminal.lasting_err() as lasting, backend.silence_stderr():
            os.write(2, b"a library's noise")
            lasting.print("starting TensorFlow")
            lasting.file.flush()
    assert capfd.readouterr().err == "starting TensorFlow\n"
