"""Write the artifacts of trials and studies: pictures, curves and predictions."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation import curves, metrics
from bhsearch.evaluation.bootstrap import Interval, bootstrap_scores, group_draws, interval
from bhsearch.evaluation.image_columns import ImageColumns
from bhsearch.evaluation.predictions import DISCLAIMER, Predictions
from bhsearch.evaluation.thresholds import classification_text, cross_fitted_labels
from bhsearch.reporting.figures import image_grid, study, trial
from bhsearch.reporting.figures.augmentation import augmentation_picture
from bhsearch.tasks import Task
from bhsearch.tracking import keys
from bhsearch.tracking.records import SummaryRecord
from bhsearch.tracking.upload.pictures import write_pictures

N_DRAWS = 1000
N_DRAWS_BAND = 200  # enough for a smooth confidence band
PENALTIES = "log10_penalty"  # the curves of a trial that has this one follow its values instead of the training


def score_and_interval(predictions: Predictions, task: Task) -> tuple[dict[str, float], Interval]:
    """Return the metrics of a trial, and the AUC's 95 % confidence interval, from a bootstrap over cases.

    If shifts count in the score, the metrics begin with the mixed score and its interval, and have the AUC under each
    shift. All other metrics, and the interval that is returned, are of the unchanged images.
    """
    draws = group_draws(predictions.group, predictions.stratum, N_DRAWS)
    (_, clean), *shifted = predictions.conditions
    ends = interval(bootstrap_scores(clean, draws, task))
    values = metrics.trial_metrics(clean, task)
    mixed, under_shifts = {}, {}
    if shifted:
        of_score = interval(bootstrap_scores(predictions, draws, task))
        mixed = dict(zip((keys.SCORE_LOW, keys.SCORE_HIGH), of_score, strict=True))
        mixed = {keys.SCORE: metrics.score(predictions, task), **mixed}
        under_shifts = {
            f"{keys.ROBUSTNESS}{name}/{keys.AUC}": metrics.clean_score(one, task)
            for name, (_, one) in zip(predictions.shifts, shifted, strict=True)
        }
    # The interval follows the score, because MLflow shows metrics in the order in which they were logged.
    of_auc = {keys.AUC: values[keys.AUC], keys.AUC_LOW: ends.low, keys.AUC_HIGH: ends.high}
    return {**mixed, **of_auc, **values, **under_shifts}, ends


def write_trial(
    folder: Path,
    predictions: Predictions,
    task: Task,
    values: Mapping[str, float],
    ends: Interval,
    history: Mapping[str, list[float]],
    pixels: npt.NDArray[np.uint8] | None,
    note: str,
    unit: str = "epoch",
) -> None:
    """Write all artifacts of a trial except the model.

    Args:
        folder: An empty folder.
        predictions: Out-of-fold predictions.
        task: Task of the study.
        values: Metrics, from `score_and_interval`.
        ends: Interval of the AUC, from `score_and_interval`.
        history: Curves `auc`, `loss` and `training_loss`, with one value per step of the training, or per penalty if
            `log10_penalty` is among them.
        pixels: Resized images in the row order of the predictions. Shape (n_images, n_tiles, size, size, 3). None if
            the images were evicted from the cache; the example images are then left out.
        note: Text on every picture, such as that the data are synthetic; may be empty.
        unit: Unit of the steps of the learning curves.
    """
    decisions = cross_fitted_labels(predictions, task)
    draws = group_draws(predictions.group, predictions.stratum, N_DRAWS_BAND)
    one = np.ones_like(predictions.weight)
    penalties = history.get(PENALTIES)
    name, steps = ("learning_curves", unit) if penalties is None else ("validation_curve", "log10 of the L2 penalty")
    pictures = {
        name: trial.learning_picture(history["auc"], history["loss"], note, history["training_loss"], steps, penalties),
        "roc": trial.roc_picture(curves.roc_band(predictions, draws), values["auc"], ends, note),
        "precision_recall": trial.precision_recall_picture(
            curves.precision_recall_band(predictions, draws), values["average_precision"], None, note
        ),
        "calibration": trial.calibration_picture(metrics.calibration_bins(predictions), values["ece"], note),
        "confusion_matrix": trial.confusion_picture(
            metrics.confusion(predictions, decisions.predicted, one),
            metrics.confusion(predictions, decisions.predicted, predictions.weight),
            task,
            note,
        ),
    }
    if pixels is not None:
        examples = image_grid.pick_examples(predictions, decisions, task)
        shown = np.stack([_whole(pixels[example.row]) for example in examples])
        pictures["right_and_wrong"] = image_grid.grid_picture(shown, examples, note)
    write_pictures(folder, pictures)
    predictions.to_csv(folder / keys.PREDICTIONS, f"{note.rstrip('.')}. {DISCLAIMER}" if note else DISCLAIMER)
    _write_table(folder / "roc.csv", curves.roc_points(predictions))
    (folder / "classification_report.txt").write_text(classification_text(predictions, task, note), encoding="utf-8")


def write_study(
    folder: Path, record: SummaryRecord, arrays: Mapping[str, Any], note: str, shift_weight: float = 0.0
) -> None:
    """Write the pictures of a study, and its summary as JSON.

    Args:
        folder: An empty folder.
        record: Summary of the study.
        arrays: `augmentation`, with example images augmented by each policy; absent if the study does not augment on
            the device. Shape (n_policies, n_pictures, size, size, 3).
        note: Text on every picture; may be empty.
        shift_weight: Weight of the shifts in the score.
    """
    trials = record["trials"]
    values = [trial["value"] for trial in trials]
    pictures = {"history": study.history_picture(values, [trial["state"] for trial in trials], note, shift_weight)}
    if record["importances"]:
        pictures["importances"] = study.importances_picture(record["importances"], note)
    complete = [trial for trial in trials if trial["value"] is not None]
    if complete:
        names = list(complete[0]["params"])
        columns = {name: [trial["params"].get(name) for trial in complete] for name in names}
        scores = [trial["value"] for trial in complete]
        pictures["cost"] = study.cost_picture(
            [trial["notes"]["seconds"] for trial in complete], scores, columns["backbone"], note, shift_weight
        )
        pictures["slice"] = study.slice_picture(columns, scores, record["log"], note, shift_weight)
    if record["best"]:
        best = record["best"]
        pictures["best_trials"] = study.intervals_picture(
            [row["name"] for row in best],
            [row["score"] for row in best],
            [row["low"] for row in best],
            [row["high"] for row in best],
            [row["tied"] for row in best],
            note,
            shift_weight,
        )
    if "augmentation" in arrays:
        rows = [(name, list(row)) for name, row in zip(record["policies"], arrays["augmentation"], strict=True)]
        pictures["augmentation"] = augmentation_picture(rows, note)
    write_pictures(folder, pictures)
    content = dict(record)
    on_request = {
        keys.ROBUSTNESS_RECORD: content.pop("robustness", {}),
        keys.NESTED_RECORD: content.pop("nested", None),
    }
    (folder / keys.TRIALS).write_text(json.dumps(content, indent=1), encoding="utf-8")
    for name, found in on_request.items():
        if found:  # a later command without it keeps the file
            (folder / name).write_text(json.dumps(found, indent=1), encoding="utf-8")


def write_race(folder: Path, record: SummaryRecord, arrays: Mapping[str, Any], images: ImageColumns) -> None:
    """Write the predictions of raced trials on all divisions.

    Args:
        folder: A folder.
        record: Summary of the study.
        arrays: `race_fold` and `race_probability`; see `SummaryRecord`.
        images: Columns of the images, in the row order of the predictions.
    """
    (folder / keys.RACE).mkdir()
    for number, probability in zip(record["race"], arrays["race_probability"], strict=True):
        replace(images, fold=arrays["race_fold"]).predictions(probability).to_csv(
            folder / keys.race_file(number), DISCLAIMER
        )


def _whole(tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the first tile of an image, which represents the image in the grid of examples."""
    first: npt.NDArray[np.uint8] = tiles[0]
    return first


def _write_table(file: Path, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([f"{value:.6g}" for value in row] for row in zip(*columns.values(), strict=True))
