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
        str | None, typer.Option(metavar="URI", help="models:/NAME@champion, or a NAME. Default: the only champion.")
    ] = None,
    case_pattern: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Its group finds the case in a path. Default: names of BreakHis and IDC."),
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

    from bhsearch.data.image_files import describe_left_out
    from bhsearch.progress import TerminalReporter

    reporter = TerminalReporter(terminal.err)
    bad = files.bad
    with predicting.output(file, sys.stdout) as stream:
        asked = predicting.open_model(model)
        writer = predicting.Writer(stream, kind, asked)
        case = predicting.case_of(case_pattern or asked.case_pattern, places)
        with reporter.step("Predicting") as progress:
            for row in predicting.predict(asked, files.images, case, bad, progress):
                writer.write(row)
    if files.left_out:
        terminal.err.print(Text(describe_left_out(files.left_out), style="dim"), soft_wrap=True)
    for item in bad:
        terminal.err.print(Text(f"left out: {item.reason}", style="red"), soft_wrap=True)
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.predict")
