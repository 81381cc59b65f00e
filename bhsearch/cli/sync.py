"""`bhsearch sync`: send finished trials that wait in the outbox to MLflow."""

from __future__ import annotations

from bhsearch.cli import terminal
from bhsearch.cli.options import Command, make_app

app = make_app()


@app.command(cls=Command)
def sync() -> None:
    """Send finished trials that wait in the outbox to MLflow.

    Trials wait there when the tracking server could not be reached. The next command of the same study sends them, too.
    """
    from bhsearch.tracking.upload import client

    client.sync(terminal.out.print)
