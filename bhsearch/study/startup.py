"""Import Keras and MLflow, which takes seconds, and report each import as a progress step."""

from __future__ import annotations

from typing import Any

from bhsearch.config import Settings
from bhsearch.models import backend
from bhsearch.study.context import FINETUNE
from bhsearch.study.events import ProgressReporter


def needs_framework(settings: Settings) -> bool:
    """Return whether a study certainly needs the framework of the networks.

    A frozen study on a CPU needs it only for features that OpenVINO cannot compute: images are resized and heads are
    trained with NumPy.
    """
    return settings.regime == FINETUNE or settings.feature_backend == "keras" or backend.gpu_files()


def start_framework(reporter: ProgressReporter) -> None:
    """Import the framework of the networks, as chosen by `backend.import_when_needed`, unless it is imported.

    Args:
        reporter: Receives the import as a progress step.
    """
    if backend.is_imported():
        return
    with reporter.step(f"starting {backend.title()}"):
        backend.require()


def open_mlflow(reporter: ProgressReporter) -> Any:
    """Import MLflow, with its messages on standard error silenced, and open its store.

    Args:
        reporter: Receives the import as a progress step.

    Returns:
        A client of the store, from `tracking.connection.open_client`.

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
