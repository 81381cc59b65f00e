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
    learning_curve: Annotated[
        bool,
        option(
            "Compute the learning curve over cases of the proposed trial, with its extrapolation to twice the cases. "
            "It takes seconds if the features are cached, and later reports show it, too.",
            "",
            "--learning-curve",
        ),
    ] = False,
    data: Annotated[
        str | None, option("Current location of the data for --learning-curve, if they were moved.", "PATH")
    ] = None,
) -> None:
    """Write a study as one self-contained HTML file with its reporting checklists (TRIPOD+AI, CLAIM) beside it.

    Both files are logged to the study's run in MLflow.
    """
    with terminal.starting():
        from bhsearch.cli.progress import TerminalReporter
        from bhsearch.lifecycle.write_report import write_report

    written = write_report(study, output, figures, TerminalReporter(), learning_curve, data)
    terminal.out.print(f"{written.study}: {output}, {written.n_bytes / 1e6:.1f} MB", markup=False, soft_wrap=True)
    terminal.out.print(f"{written.checklist}: {'; '.join(written.items)}", markup=False, soft_wrap=True)
    if figures is not None:
        terminal.out.print(f"{figures}: {written.n_figures} figures as SVG and PDF", markup=False, soft_wrap=True)
