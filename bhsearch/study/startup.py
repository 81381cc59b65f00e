"""What takes seconds before a command can begin, each named while it lasts."""

from __future__ import annotations

from typing import Any

from bhsearch.models import backend
from bhsearch.study.events import Reporter


def start_framework(reporter: Reporter, threads: int | None = None) -> None:
    """Import the networks' framework.

    Args:
        reporter: Shows it.
        threads: As in `backend.start`.
    """
    with reporter.step(f"starting {backend.title()}"):
        backend.start(threads=threads)


def open_mlflow(reporter: Reporter) -> Any:
    """Import MLflow without its noise, and open its store.

    Returns:
        A client of the store, as `tracking.store.open_client` gives it.

    Raises:
        StudyError: If the store cannot be opened.
    """
    with reporter.step("opening MLflow"):
        with backend.quiet():
            from bhsearch.tracking import (
                reader,  # noqa: F401
                registry,  # noqa: F401
            )
        from bhsearch.tracking.connection import open_client

        return open_client(patient=True)
