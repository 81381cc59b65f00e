"""`python -m bhsearch.report`: a study on one page, for people who look rather than read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bhsearch.cli import terminal

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog="Research only: not for screening patients.")
def report(
    study: Annotated[
        str | None, typer.Option(help="Name, uid or run of a study. Default: the one begun last.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    figures: Annotated[
        Path | None, typer.Option(help="Folder for each figure as SVG and PDF, with captions.", show_default=False)
    ] = None,
) -> None:
    """Write a study as one HTML file that needs no network, and keep it beside the study's run in MLflow."""
    from bhsearch.errors import PlaceError
    from bhsearch.runtime.cache import explain_write_errors

    if output.is_dir():
        raise PlaceError(f"--output must be a file to write, but {str(output)!r} is a folder.")
    if figures is not None and figures.exists() and not figures.is_dir():
        raise PlaceError(f"--figures must be a folder to write into, but {str(figures)!r} is a file.")

    with terminal.starting():
        from bhsearch.cli.progress import TerminalReporter
        from bhsearch.lifecycle.build_report import build_report

    reporter = TerminalReporter()
    made, page = build_report(study, reporter)
    with explain_write_errors(f"the report {output}", ""):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8")
    terminal.out.print(f"{made.study}: {output}, {len(page) / 1e6:.1f} MB", markup=False, soft_wrap=True)
    if figures is not None:
        from bhsearch.reporting.report_figures import write_figures

        with reporter.step("drawing figures"), explain_write_errors(f"the figures in {figures}"):
            written = write_figures(made, figures)
        terminal.out.print(f"{figures}: {len(written)} figures as SVG and PDF", markup=False, soft_wrap=True)


if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.report")
