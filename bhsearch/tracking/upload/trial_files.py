"""Metrics and files of a trial in the outbox: what the uploader logs beside the parameters and the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from bhsearch.errors import RunError
from bhsearch.evaluation.image_columns import ImageColumns
from bhsearch.evaluation.plugin_metrics import extra_values
from bhsearch.evaluation.predictions import Predictions
from bhsearch.runtime.cache import acquire_lease
from bhsearch.tasks import restore_task
from bhsearch.tracking.records import StudyRecord, TrialRecord
from bhsearch.tracking.upload import artifacts
from bhsearch.tracking.upload.outbox import Message


def write_trial_files(folder: Path, study: Message[StudyRecord], trial: Message[TrialRecord]) -> dict[str, float]:
    """Write the artifacts of a complete trial except the model, and return its metrics.

    Args:
        folder: An empty folder.
        study: Record and arrays of the study.
        trial: Record and arrays of the trial.

    Raises:
        RunError: If the metrics cannot be computed or the files cannot be written.
    """
    try:
        predictions = joined_predictions(study, trial)
        task = restore_task(study.record.get("task"))
        values, ends = artifacts.score_and_interval(predictions, task)
        values |= extra_values(predictions, study.record["settings"].get("metrics", ()), task)
        unit = "quarter of the training" if study.record["augmented"] else "epoch"
        note, curves = study.record["note"], trial.record["curves"]
        artifacts.write_trial(folder, predictions, task, values, ends, curves, _pixels(study), note, unit)
    except Exception as error:  # such as one of another package's metric
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise RunError(f"Cannot write the files of trial {trial.record['number']}: {reason}") from error
    return values


def _pixels(study: Message[StudyRecord]) -> npt.NDArray[np.uint8] | None:
    """Return the resized images as a memory map; None if they were evicted from the cache, or for vectors."""
    place = study.record["pixels"]
    if not place["file"] or not acquire_lease(Path(place["file"]).parent):
        return None
    return np.memmap(place["file"], np.uint8, "r", shape=tuple(place["shape"]))


def joined_predictions(study: Message[StudyRecord], trial: Message[TrialRecord]) -> Predictions:
    """Return the out-of-fold predictions of a trial in the outbox."""
    return ImageColumns.from_arrays(study.arrays).predictions(trial.arrays["probability"])
