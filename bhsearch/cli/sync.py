"""`bhsearch sync`: send finished trials in the outbox to MLflow."""

from __future__ import annotations

from bhsearch.cli import terminal
from bhsearch.cli.options import Command, make_app

app = make_app()


@app.command(cls=Command)
def sync() -> None:
    """Send finished trials that wait in the outbox to MLflow.

    Trials stay in the outbox if MLflow could not be reached. The next command of the same study also sends them.
    """
    from bhsearch.tracking.upload import client

    client.sync(terminal.out.print)
