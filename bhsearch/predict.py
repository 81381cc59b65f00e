"""`python -m bhsearch.predict`: P(malignant) of images and cases by a registered model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from bhsearch import terminal

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog="Research only: not for screening patients.")
def predict(
    places: Annotated[list[str], typer.Argument(metavar="FILES_OR_FOLDERS", help="Images, or folders of them.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="NAME, NAME@challenger, NAME/VERSION or a URI. Default: the only champion."),
    ] = None,
    case_pattern: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Its group finds the case in a path. Default: BreakHis names.")
    ] = None,
    kind: Annotated[str, typer.Option("--format", help="csv or jsonl.")] = "csv",
    file: Annotated[Path | None, typer.Option("--output", help="File to write. Default: standard output.")] = None,
) -> None:
    """Predict with the champion: a row per image, and one per case where cases are known.

    Images that cannot be read are named and left out; the exit code is then 1.
    """
    from bhsearch.search import predicting

    predicting.check_format(kind)
    files = predicting.find_files(places)
    predicting.case_of(case_pattern)

    from bhsearch.data.index import BadFile
    from bhsearch.progress import TerminalReporter

    reporter = TerminalReporter(terminal.err)
    asked = predicting.open_model(model)
    bad: list[BadFile] = []
    with predicting.output(file, sys.stdout) as stream, reporter.step("Predicting") as progress:
        writer = predicting.Writer(stream, kind, asked)
        case = predicting.case_of(case_pattern or asked.case_pattern)
        for row in predicting.predict(asked, files, case, bad, progress):
            writer.write(row)
    for item in bad:
        terminal.err.print(Text(f"left out: {item.reason}", style="red"), soft_wrap=True)
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.predict")
