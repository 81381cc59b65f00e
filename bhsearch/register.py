"""`python -m bhsearch.register`: test the best trial of a study on the sealed cases, once, and register it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from bhsearch.cli import terminal

if TYPE_CHECKING:
    from bhsearch.lifecycle.registration import RegistrationPlan

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog="Research only: not for screening patients.")
def register(
    study: Annotated[str | None, typer.Option(help="Name or uid. Default: the only study of the MLflow store.")] = None,
    trial: Annotated[int | None, typer.Option(help="Number of a finished trial. Default: the best.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the registered model. Default: the data set's.")] = None,
    alias: Annotated[str, typer.Option(help="What a version gets that passes the gate.")] = "champion",
    force: Annotated[bool, typer.Option("--force", help="Promote whatever the gate says; needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option(help="The reason for --force; it is kept.")] = None,
    export: Annotated[str | None, typer.Option(help="openvino: that, too, beside the model.")] = None,
    data: Annotated[str | None, typer.Option(help="Where the data lie now, if they were moved.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would happen; open nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the first opening.")] = False,
) -> None:
    """Open the sealed test for one trial, register its model, and promote it if it is better than the champion.

    Calibration and threshold are fixed before. Openings are counted: the first look is the only unbiased one. A trial
    that was tested on these cases before is not tested again: its earlier result is shown.
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
    result = register.register(request, reporter, lambda prospect: yes or _agreed(prospect))
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


def _agreed(prospect: RegistrationPlan) -> bool:
    """Whether to open the sealed cases: asked before the first opening, and where there is somebody to answer."""
    from bhsearch.lifecycle import registration_summary

    if prospect.openings or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    _print(registration_summary.plan_rows(prospect))
    return typer.confirm("The first look at these cases is the only unbiased one. Open them now?")


def _print(rows: list[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in rows:
        table.add_row(heading, Text(text))
    terminal.out.print(table)


if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.register")
