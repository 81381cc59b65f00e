"""`python -m bhsearch.reproduce`: train a trial again from what MLflow holds, and say how far it differs."""

from __future__ import annotations

from typing import Annotated

import typer

from bhsearch.cli import terminal

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def reproduce(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="MLflow run of a finished trial.")],
    data: Annotated[str | None, typer.Option(help="Where the data lie now, if they were moved.")] = None,
) -> None:
    """Train that trial again and compare its out-of-fold predictions with those that MLflow keeps."""
    with terminal.starting():
        from bhsearch.cli.progress import TerminalReporter
        from bhsearch.lifecycle import reproduce

    result = reproduce.reproduce(run_id, TerminalReporter(), data)
    lines = [
        f"trial {result.number} of {result.study}",
        f"AUC {result.score:.6f} then, {result.score_now:.6f} now",
        f"P(malignant) differs by at most {result.largest:.2g} (mean {result.mean:.2g}) on {result.n_images} images",
    ]
    if result.largest >= reproduce.SAME:
        lines.append(f"On the same machine, with the same versions, it stays below {reproduce.SAME:g}.")
    lines += [f"other version: {change}" for change in result.versions]
    for line in lines:
        terminal.out.print(line, markup=False, soft_wrap=True)


if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.reproduce")
