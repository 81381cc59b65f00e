"""The list of studies: what it counts, at any width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bhsearch.cli import studies, terminal
from bhsearch.cli.main import main
from bhsearch.tracking.study_list import StudySummary
from tests.studies import STUDY, import_mlflow

LONG = StudySummary(
    name="a-study-with-a-name-that-is-longer-than-most-because-its-data-set-has-a-long-one",
    uid="1", run_id="2", data="a data set [red]", regime="frozen", n_finished=50, n_failed=2, score=0.91234,
    low=0.85, high=0.96, n_openings=1, started_ms=1_700_000_000_000,
)  # fmt: skip


def printed(width: int, monkeypatch) -> str:
    console = Console(width=width, force_terminal=True, highlight=False, color_system=None, record=True)
    monkeypatch.setattr(terminal, "out", console)
    (studies._print_table if width >= studies._WIDE else studies._print_blocks)([LONG])
    return console.export_text()


def test_a_finished_study_is_listed_with_what_was_counted(finished, monkeypatch, capsys):
    import_mlflow()
    monkeypatch.chdir(finished.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished.folder}/mlflow.db")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["bhsearch", "studies"])
    with pytest.raises(SystemExit) as caught:
        main()
    done = capsys.readouterr()
    assert not caught.value.code, done.err
    (row,) = [line for line in done.out.splitlines() if line.startswith(STUDY)]
    best = max(trial.value for trial in finished.trials())
    assert row.split()[:5] == [STUDY, "phantom-cases24-images3", "frozen", "4", f"{best:.4f}"]
    assert "\x1b" not in done.out


def test_a_narrow_terminal_gets_a_block_per_study(monkeypatch):
    text = printed(60, monkeypatch)
    assert max(map(len, text.splitlines())) <= 60
    for part in ("50 + 2 failed", "0.9123 [0.850 0.960]", "a data set [red]", "test openings"):
        assert part in text


def test_a_wide_terminal_gets_a_line_per_study(monkeypatch):
    (head, row) = [line for line in printed(200, monkeypatch).splitlines() if line.strip()]
    assert head.startswith("study")
    assert LONG.name in row
    assert "0.9123 [0.850 0.960]" in row


def test_a_file_gets_whole_lines_though_it_has_no_width(monkeypatch):
    console = Console(file=io.StringIO(), width=80, highlight=False)
    monkeypatch.setattr(terminal, "out", console)
    studies._print_table([LONG])
    (head, row) = console.file.getvalue().splitlines()
    assert LONG.name in row
    assert "0.9123 [0.850 0.960]" in row
    assert "…" not in head + row
    assert head.index("started") == row.index("2023-11-1")
