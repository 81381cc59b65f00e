"""Pictures of a sealed test, which state that the cases were not used for selection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation import curves, metrics
from bhsearch.evaluation.bootstrap import group_draws
from bhsearch.reporting.figures import description, image_grid, trial
from bhsearch.reporting.figures.palette import BLUE, GREY
from bhsearch.reporting.figures.picture import single
from bhsearch.reporting.report_numbers import pooled_points
from bhsearch.reporting.svg.picture import to_svg

if TYPE_CHECKING:
    from collections.abc import Callable

    from bhsearch.evaluation.held_out_test import TestResult
    from bhsearch.reporting.figures.picture import Picture

_PART = "sealed test"
_WEIGHTING = "every case counts the same"
_N_DRAWS_BAND = 200


def pictures(tested: TestResult, note: str = "", part: str = _PART) -> dict[str, bytes]:
    """Return the pictures of a test as SVG files by name.

    The names are `roc`, `precision_recall`, `calibration` and `confusion_matrix`. Each picture shows the note.

    Args:
        tested: Result of the test.
        note: Note in a corner; may be empty.
        part: Name of the tested images, such as `sealed test`.
    """
    sample = f"{part}, {_WEIGHTING}"
    predictions = tested.predictions
    draws = group_draws(predictions.group, predictions.stratum, _N_DRAWS_BAND)
    values, intervals = tested.values, tested.intervals
    weights = (np.ones_like(predictions.weight), predictions.weight)
    images, cases = (metrics.confusion(predictions, tested.decisions.predicted, weight) for weight in weights)
    threshold = float(tested.decisions.threshold[0, 0])
    drawn = {
        "roc": trial.roc_picture(curves.roc_band(predictions, draws), values["auc"], intervals["auc"], note, sample),
        "precision_recall": trial.precision_recall_picture(
            curves.precision_recall_band(predictions, draws),
            values["average_precision"],
            intervals["average_precision"],
            note,
            sample,
        ),
        "calibration": _calibration(tested, note, sample),
        "confusion_matrix": trial.confusion_picture(
            images, cases, tested.task, note, sample=f"{sample}; threshold {threshold:.3f}, fixed beforehand"
        ),
    }
    return {name: to_svg(picture).encode() for name, picture in drawn.items()}


def worst_and_best(tested: TestResult, pixels_of: Callable[[int], npt.NDArray[np.uint8]], note: str = "") -> bytes:
    """Return an SVG file of the most confidently correct and the most confidently wrong predictions of the test.

    Args:
        tested: Result of the sealed test.
        pixels_of: Function that returns the RGB image of a test row; all images must have the same size.
        note: Note in a corner; may be empty.
    """
    examples = image_grid.pick_examples(tested.predictions, tested.decisions, tested.task)
    pixels = np.stack([pixels_of(example.row) for example in examples])
    sample = "sealed test, one image a case where possible"
    return to_svg(image_grid.grid_picture(pixels, examples, note, sample)).encode()


def _calibration(tested: TestResult, note: str, sample: str) -> Picture:
    sides = (
        (tested.uncalibrated, GREY, "before", "_uncalibrated"),
        (tested.predictions, BLUE, "after", ""),
    )
    described = description.calibration_curves(
        [
            (
                pooled_points(*metrics.calibration_bins(predictions)),
                colour,
                f"{name}: ECE {tested.values[f'ece{suffix}']:.3f}, Brier {tested.values[f'brier{suffix}']:.3f}",
            )
            for predictions, colour, name, suffix in sides
        ]
    )
    detail = f"{sample}\nof the deployed model, before and after calibration"
    return single(described, "Calibration", detail, note)
