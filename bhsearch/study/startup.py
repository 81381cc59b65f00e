"""Import the slow frameworks, and report each import as a step."""

from __future__ import annotations

from typing import Any

from bhsearch.models import backend
from bhsearch.study.events import ProgressReporter


def start_framework(reporter: ProgressReporter, threads: int | None = None) -> None:
    """Import the networks' framework.

    Args:
        reporter: Shows it.
        threads: As in `backend.import_backend`.
    """
    with reporter.step(f"starting {backend.title()}"):
        backend.import_backend(threads=threads)


def open_mlflow(reporter: ProgressReporter) -> Any:
    """Import MLflow without its noise, and open its store.

    Returns:
        A client of the store, as `tracking.connection.open_client` gives it.

    Raises:
        StudyError: If the store cannot be opened.
    """
    with reporter.step("opening MLflow"):
        with backend.silence_stderr():
            from bhsearch.tracking import (
                reader,  # noqa: F401
                registry,  # noqa: F401
            )
        from bhsearch.tracking.connection import open_client

        return open_client(patient=True)
