"""`bhsearch validate`: evaluate a registered model on an external cohort."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from bhsearch.cli import terminal
from bhsearch.cli.options import RESEARCH_ONLY, Command, make_app, option, settings_options
from bhsearch.config.settings import DATA_SETTINGS

app = make_app()


@app.command(cls=Command, epilog=RESEARCH_ONLY)
@settings_options(*DATA_SETTINGS, required=("data",))
def validate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="NAME, NAME@challenger, NAME/VERSION, a URI or a folder.")
    ],
    reason: Annotated[
        str | None, option("Reason of the validation, which is logged. [default: external validation]", "TEXT")
    ] = None,
    output: Annotated[Path | None, option("JSON file to write the result to.", "FILE")] = None,
    report: Annotated[Path | None, option("HTML file to write the result to.", "FILE")] = None,
    strict: Annotated[
        bool, option("Exit with code 1 if the cohort differs from the training images.", "", "--strict")
    ] = False,
    **settings: Any,
) -> None:
    """Evaluate a registered model on an external cohort, with the statistics of the sealed test.

    The access is logged before anything is computed, and every validation on images or cases of this cohort is counted.
    A cohort that contains images of the model's data set is refused. Differences from the training images are listed:
    image size, magnification, and drift of the cases.
    """
    from bhsearch.config import load_settings
    from bhsearch.lifecycle.validation.request import REASON, ValidationRequest

    chosen = load_settings(None, settings)
    request = ValidationRequest(model, chosen, REASON if reason is None else reason, output, report)
    with terminal.starting():
        from bhsearch.cli.progress import TerminalReporter
        from bhsearch.lifecycle.validation import summary
        from bhsearch.lifecycle.validation import validate as validation

    result = validation.validate(request, TerminalReporter())
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in summary.rows(result):
        table.add_row(heading, Text(text))
    terminal.out.print(table)
    for file in (output, report):
        if file is not None:
            terminal.out.print(f"wrote {file}", markup=False, soft_wrap=True)
    for sentence in (*result.notes, result.differences.unchecked, result.use):
        if sentence:
            terminal.out.print(Text(sentence, style="dim"))
    terminal.print_warnings(result.differences.warnings)
    if strict and result.differences.warnings:
        sys.exit(1)
