"""`python -m bhsearch.predict`: P(malignant) of images and cases by a registered model."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from bhsearch.cli import terminal

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog="Research only: not for screening patients.")
def predict(
    places: Annotated[list[str], typer.Argument(metavar="FILES_OR_FOLDERS", help="Images, or folders of them.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="NAME, NAME@challenger, NAME/VERSION or a URI. Default: the only champion."),
    ] = None,
    case_pattern: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Its group finds the case in a path. Default: names of BreakHis and IDC."),
    ] = None,
    kind: Annotated[str, typer.Option("--format", help="csv or jsonl.")] = "csv",
    file: Annotated[
        Path | None,
        typer.Option("--output", help="File for the rows of images; cases go beside it. Default: standard output."),
    ] = None,
) -> None:
    """Predict with the champion: a row per image, and in a second file a row per case where cases are known.

    Images that cannot be read are named and left out; the exit code is then 1.
    """
    with terminal.lasting_err() as console:
        with terminal.starting(console):
            from bhsearch.cli.progress import TerminalReporter
            from bhsearch.data.images.files import describe_left_out
            from bhsearch.lifecycle import predict
            from bhsearch.study.events import ProgressReporter

        predict.check_format(kind)
        if file is not None:
            predict.check_output(file)
        files = predict.find_files(places)
        predict.case_of(case_pattern)

        reporter = TerminalReporter(console)
        asked = predict.open_model(model, reporter)
        bad = files.bad
        case = predict.case_of(case_pattern or asked.case_pattern, places)
        written: list[tuple[Path, int]] = []
        aside = file is not None or _goes_to_a_file()  # else rows may come to the same screen, and be drawn over
        with (reporter if aside else ProgressReporter()).step("predicting") as progress:
            rows = predict.predict(asked, files.images, case, bad, progress)
            if file is not None:
                written = predict.write_files(file, kind, asked, rows)
            else:
                predict.write_to(sys.stdout, kind, rows)
        if file is None:
            said = (
                f"Model {asked.uri}. P(malignant) of at least {asked.threshold:.6g} is labelled malignant. {asked.use}"
            )
            terminal.err.print(Text(said, style="dim"))
        if files.left_out:
            terminal.err.print(Text(describe_left_out(files.left_out), style="dim"), soft_wrap=True)
        for item in bad:
            terminal.err.print(Text(f"left out: {item.reason}", style="red"), soft_wrap=True)
        for place, n_rows in written:
            noun = "row" if n_rows == 1 else "rows"
            terminal.out.print(f"wrote {n_rows:,} {noun} to {place}", markup=False, soft_wrap=True)
    if bad:
        sys.exit(1)


def _goes_to_a_file() -> bool:
    """Whether standard output is a regular file."""
    try:
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):  # a stream of a notebook or a test
        return False


if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.predict")
