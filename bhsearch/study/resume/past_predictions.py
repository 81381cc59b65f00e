"""Read out-of-fold predictions of trials that other processes ran, from outboxes and from MLflow."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from bhsearch.evaluation.predictions import Predictions
from bhsearch.states import COMPLETE
from bhsearch.study.development_rows import DevelopmentImages
from bhsearch.tracking.upload.outbox import Outbox


def outbox_predictions(outboxes: Iterable[Outbox], images: DevelopmentImages) -> dict[int, Predictions]:
    """Read the predictions of complete trials that MLflow does not have yet, by number of the trial.

    Look here before MLflow: a trial that leaves an outbox in between is there by then.
    """
    found = {}
    for box in outboxes:
        for number in box.waiting():
            with suppress(FileNotFoundError):  # sent, meanwhile
                message = box.trial(number)
                if message.record["state"] == COMPLETE:
                    found[number] = images.predictions(message.arrays["probability"])
    return found


def mlflow_predictions(experiment: str, uid: str) -> dict[int, Predictions]:
    """Read the predictions of a study's complete trials from MLflow, by number of the trial.

    Raises:
        StudyError: If the store cannot be opened, or refuses to give them.
        RunError: If the store stays unavailable.
    """
    from bhsearch.models import backend

    with backend.silence_stderr():
        from bhsearch.tracking.upload import writer
    from bhsearch.tracking.connection import open_client

    return writer.stored_predictions(open_client(patient=True), experiment, uid)


def experiment_of(name: str) -> str:
    """Return the id of an MLflow experiment; empty if there is no experiment of that name.

    Raises:
        StudyError: If the store cannot be opened.
    """
    from bhsearch.models import backend

    with backend.silence_stderr():
        from bhsearch.tracking.connection import open_client

        found = open_client().get_experiment_by_name(name)
    return str(found.experiment_id) if found is not None else ""
