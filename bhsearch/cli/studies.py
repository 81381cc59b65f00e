"""`bhsearch studies`: list the studies of the MLflow store."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from bhsearch.cli import terminal
from bhsearch.cli.options import RESEARCH_ONLY, Command, make_app
from bhsearch.evaluation.mixed_score import score_title

if TYPE_CHECKING:
    from bhsearch.tracking.study_list import StudySummary

app = make_app()
_WIDE = 120  # columns of a terminal from which each study is printed on one line
_HEADINGS = ("data", "regime", "trials", "best AUC", "test openings", "started")


@app.command(cls=Command, epilog=RESEARCH_ONLY)
def studies() -> None:
    """List the studies of the MLflow store, most recently started first.

    The list shows the numbers of finished and failed trials, the best score with its 95 % confidence interval, and how
    often the sealed test was opened for each study.
    """
    with terminal.starting():
        from bhsearch.cli.progress import TerminalReporter
        from bhsearch.lifecycle import stored_studies

    found = stored_studies.list_studies(TerminalReporter())
    if not found:
        terminal.out.print("The MLflow store contains no study. Make one with `python -m bhsearch.run`.", markup=False)
    elif terminal.out.width >= _WIDE or not terminal.out.is_terminal:
        _print_table(found)
    else:
        _print_blocks(found)


def _cells(study: StudySummary) -> tuple[str, ...]:
    """Return the facts of a study as text, in the order of `_HEADINGS`."""
    trials = f"{study.n_finished}" + (f" + {study.n_failed} failed" if study.n_failed else "")
    score = "" if study.score != study.score else f"{study.score:.4f}"
    if study.low == study.low:
        score += f" [{study.low:.3f} {study.high:.3f}]"
    if study.shift_weight:
        score += f" ({score_title(study.shift_weight)})"
    started = datetime.fromtimestamp(study.started_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M")
    return study.data, study.regime, trials, score, str(study.n_openings), started


def _print_table(found: list[StudySummary]) -> None:
    """Print one unwrapped line per study, wider than the terminal if necessary."""
    rows = [("study", *_HEADINGS), *((study.name, *_cells(study)) for study in found)]
    # Rich cuts the columns of a table to the width of the console, which is 80 where the output is a file or a pipe.
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        line = "  ".join(set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
        terminal.out.print(Text(line, style="" if number else "dim"), soft_wrap=True)


def _print_blocks(found: list[StudySummary]) -> None:
    """Print a block of lines per study, for narrow terminals."""
    for study in found:
        terminal.out.print(Text(study.name, style="bold"))
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for heading, cell in zip(_HEADINGS, _cells(study), strict=True):
            table.add_row(f"  {heading}", Text(cell))
        terminal.out.print(table)
