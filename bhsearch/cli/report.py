"""`bhsearch report`: write a study as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from bhsearch.cli import terminal
from bhsearch.cli.options import RESEARCH_ONLY, Command, make_app, option

app = make_app()


@app.command(cls=Command, epilog=RESEARCH_ONLY)
def report(
    study: Annotated[
        str | None, option("Name, uid or run of the study. [default: the study that was started last]", "NAME")
    ] = None,
    output: Annotated[Path, option("HTML file to write. [default: report.html]", "FILE")] = Path("report.html"),
    figures: Annotated[
        Path | None, option("Folder to write every figure into as SVG and PDF, with captions.", "FOLDER")
    ] = None,
) -> None:
    """Write a study as one self-contained HTML file, and log the file to the study's run in MLflow."""
    with terminal.starting():
        from bhsearch.cli.progress import TerminalReporter
        from bhsearch.lifecycle.write_report import write_report

    written = write_report(study, output, figures, TerminalReporter())
    terminal.out.print(f"{written.study}: {output}, {written.n_bytes / 1e6:.1f} MB", markup=False, soft_wrap=True)
    if figures is not None:
        terminal.out.print(f"{figures}: {written.n_figures} figures as SVG and PDF", markup=False, soft_wrap=True)
