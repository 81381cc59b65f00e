"""Read out-of-fold predictions of trials that other processes ran, from outboxes and from MLflow."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from bhsearch.evaluation.predictions import Predictions
from bhsearch.states import COMPLETE
from bhsearch.study.development_rows import DevelopmentImages
from bhsearch.tracking.upload.outbox import Outbox


def outbox_predictions(outboxes: Iterable[Outbox], images: DevelopmentImages) -> dict[int, Predictions]:
    """Return the predictions of complete trials that wait in outboxes to be logged to MLflow, by trial number.

    Call this function before `mlflow_predictions`: a trial that is logged between the two calls is then found by the
    second one.
    """
    found = {}
    for box in outboxes:
        for number in box.waiting():
            with suppress(FileNotFoundError):  # the trial was logged in the meantime
                message = box.trial(number)
                if message.record["state"] == COMPLETE:
                    found[number] = images.predictions(message.arrays["probability"])
    return found


def mlflow_predictions(experiment: str, uid: str) -> dict[int, Predictions]:
    """Return the predictions of a study's complete trials that are stored in MLflow, by trial number.

    Args:
        experiment: Name of the MLflow experiment.
        uid: Unique identifier of the study.

    Raises:
        StudyError: If the store cannot be opened or denies access to the predictions.
        RunError: If the store remains unavailable.
    """
    from bhsearch.models import backend

    with backend.silence_stderr():
        from bhsearch.tracking.upload import writer
    from bhsearch.tracking.connection import open_client

    return writer.stored_predictions(open_client(patient=True), experiment, uid)


def experiment_of(name: str) -> str:
    """Return the id of an MLflow experiment; empty if no experiment has this name.

    Raises:
        StudyError: If the store cannot be opened.
    """
    from bhsearch.models import backend

    with backend.silence_stderr():
        from bhsearch.tracking.connection import open_client

        found = open_client().get_experiment_by_name(name)
    return str(found.experiment_id) if found is not None else ""
