"""`bhsearch reproduce`: retrain a trial and compare its predictions with the stored ones."""

from __future__ import annotations

from typing import Annotated

import typer

from bhsearch.cli import terminal
from bhsearch.cli.options import RESEARCH_ONLY, Command, make_app, option
from bhsearch.text import plural

app = make_app()


@app.command(cls=Command, epilog=RESEARCH_ONLY)
def reproduce(
    run_id: Annotated[
        str | None,
        typer.Argument(metavar="RUN_ID", help="MLflow run of a complete trial; or give --study and --trial."),
    ] = None,
    study: Annotated[
        str | None, option("Name, uid or run of the study. [default: the only study of the MLflow store]", "NAME")
    ] = None,
    trial: Annotated[int | None, option("Number of a complete trial. [default: the best]", "N")] = None,
    data: Annotated[
        str | None, option("Location of the data set, if it was moved since the study was made.", "PATH")
    ] = None,
) -> None:
    """Train a trial again and compare its out-of-fold predictions with the predictions stored in MLflow."""
    with terminal.starting():
        from bhsearch.cli.progress import TerminalReporter
        from bhsearch.lifecycle import reproduce

    result = reproduce.reproduce(run_id, TerminalReporter(), data, study=study, trial=trial)
    lines = [
        f"trial {result.number} of {result.study}",
        f"{result.title} {result.score:.6f} then, {result.score_now:.6f} now",
        f"P(malignant) differs by at most {result.largest:.2g} (mean {result.mean:.2g}) on "
        f"{plural(result.n_images, 'image')}",
    ]
    if result.largest >= reproduce.SAME:
        lines.append(f"On the same machine with the same versions, the difference is below {reproduce.SAME:g}.")
    lines += [f"other version: {change}" for change in result.versions]
    for line in lines:
        terminal.out.print(line, markup=False, soft_wrap=True)
