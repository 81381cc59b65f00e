"""`python -m bhsearch.register`: test the best trial of a study on the sealed cases, once, and register it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bhsearch import terminal

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog="Research only: not for screening patients.")
def register(
    study: Annotated[str | None, typer.Option(help="Name or uid. Default: the only study of the MLflow store.")] = None,
    trial: Annotated[int | None, typer.Option(help="Number of a finished trial. Default: the best.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the registered model. Default: the data set's.")] = None,
    alias: Annotated[str, typer.Option(help="What a version gets that passes the gate.")] = "champion",
    force: Annotated[bool, typer.Option("--force", help="Promote whatever the gate says; needs --why.")] = False,
    why: Annotated[str | None, typer.Option(help="The reason for --force; it is kept.")] = None,
    export: Annotated[str | None, typer.Option(help="openvino: that, too, beside the model.")] = None,
    data: Annotated[str | None, typer.Option(help="Where the data lie now, if they were moved.")] = None,
) -> None:
    """Open the sealed test for one trial, register its model, and promote it if it is better than the champion.

    Calibration and threshold are fixed before. Openings are counted: the first look is the only unbiased one.
    """
    from bhsearch.search.registration import Request

    request = Request(study, trial, name, alias, force, why, data, export)

    with terminal.starting():
        from bhsearch.progress import TerminalReporter
        from bhsearch.search import registered, registering

    result = registering.register(request, TerminalReporter())
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in registered.rows(result):
        table.add_row(heading, Text(text))
    terminal.out.print(table)
    for sentence in registered.notes(result):
        terminal.out.print(Text(sentence, style="dim"))
    terminal.out.print("\nNext:  python -m bhsearch.predict FILES_OR_FOLDERS")


if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.register")
