"""`bhsearch register`: test a trial of a study once on the held-out test set, and register its model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from bhsearch.cli import terminal
from bhsearch.cli.options import RESEARCH_ONLY, Command, make_app, option
from bhsearch.config import choices

if TYPE_CHECKING:
    from bhsearch.lifecycle.registration import RegistrationPlan

app = make_app()


@app.command(cls=Command, epilog=RESEARCH_ONLY)
def register(
    study: Annotated[
        str | None, option("Name, uid or run of the study. [default: the only study of the MLflow store]", "NAME")
    ] = None,
    trial: Annotated[int | None, option("Number of a complete trial. [default: the proposed one]", "N")] = None,
    name: Annotated[str | None, option("Name of the registered model. [default: the data set's]", "NAME")] = None,
    alias: Annotated[
        str, option("Alias that a version receives when it passes the promotion gate. [default: champion]", "NAME")
    ] = "champion",
    force: Annotated[
        bool, option("Promote the model even if the gate rejects it; requires --reason.", "", "--force")
    ] = False,
    reason: Annotated[str | None, option("Reason for --force, which is logged.", "TEXT")] = None,
    export: Annotated[
        str | None,
        option("Further format to write beside the Keras model. [openvino]", "FORMAT", choices=choices.exports),
    ] = None,
    data: Annotated[
        str | None, option("Location of the data set, if it was moved since the study was made.", "PATH")
    ] = None,
    dry_run: Annotated[
        bool, option("Show what would happen without opening the sealed test.", "", "--dry-run")
    ] = False,
    yes: Annotated[
        bool, option("Do not ask before the first opening. Without a terminal, nothing is asked.", "", "--yes")
    ] = False,
) -> None:
    """Open the sealed test for one trial, register its model, and promote it if it beats the champion.

    Calibration and threshold are fixed before the test is opened. Every opening is counted, because only the first is
    unbiased. A trial that was already tested on these cases is not tested again; its earlier result is shown.
    """
    from bhsearch.lifecycle.registration import EarlierResult, RegistrationRequest

    request = RegistrationRequest(study, trial, name, alias, force, reason, data, export)

    with terminal.starting():
        from bhsearch.cli.progress import TerminalReporter
        from bhsearch.lifecycle import register, registration_summary

    reporter = TerminalReporter()
    if dry_run:
        _print(registration_summary.plan_rows(register.preview(request, reporter)))
        terminal.out.print("Nothing was opened.")
        return
    result = register.register(request, reporter, lambda plan: yes or _agreed(plan))
    if result is None:
        terminal.out.print("Nothing was opened.")
        sys.exit(1)
    if isinstance(result, EarlierResult):
        _print(registration_summary.earlier_rows(result))
        sentences = result.notes
    else:
        _print(registration_summary.rows(result))
        sentences = registration_summary.notes(result)
    for sentence in sentences:
        terminal.out.print(Text(sentence, style="dim"))
    terminal.out.print(Text(f"\nNext:  {registration_summary.advice(result)}"), soft_wrap=True)


def _agreed(plan: RegistrationPlan) -> bool:
    """Return whether to open the sealed test.

    The user is asked only before the first opening, and only at a terminal; otherwise the result is True.
    """
    from bhsearch.lifecycle import registration_summary

    if plan.openings or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    _print(registration_summary.plan_rows(plan))
    return typer.confirm("Only the first evaluation on these cases is unbiased. Open the sealed test now?")


def _print(rows: list[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in rows:
        table.add_row(heading, Text(text))
    terminal.out.print(table)
