"""Figures of a sealed test, which state that the cases were not used for selection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation import curves, metrics
from bhsearch.evaluation.bootstrap import group_draws
from bhsearch.reporting.figures import description, image_grid, style, trial
from bhsearch.reporting.figures.drawing import TitledFigure
from bhsearch.reporting.report_numbers import pooled_points

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from bhsearch.evaluation.held_out_test import TestResult
    from bhsearch.reporting.figures.templates import Panel

_PART = "sealed test"
_WEIGHTING = "every case counts the same"
_N_DRAWS_BAND = 200


def pictures(tested: TestResult, note: str = "", part: str = _PART) -> dict[str, bytes]:
    """Return the figures of a test as PNG files by name.

    The names are `roc`, `precision_recall`, `calibration` and `confusion_matrix`. Each figure shows the note.

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
    figures: dict[str, Figure | Panel] = {
        "roc": trial.roc_figure(
            curves.roc_band(predictions, draws), values["auc"], intervals["auc"], note, sample
        ).figure(),
        "precision_recall": trial.precision_recall_figure(
            curves.precision_recall_band(predictions, draws),
            values["average_precision"],
            intervals["average_precision"],
            note,
            sample,
        ).figure(),
        "calibration": _calibration(tested, note, sample),
        "confusion_matrix": trial.confusion_figure(
            images, cases, tested.task, note, sample=f"{sample}; threshold {threshold:.3f}, fixed beforehand"
        ),
    }
    return {name: style.to_png(figure) for name, figure in figures.items()}


def worst_and_best(tested: TestResult, pixels_of: Callable[[int], npt.NDArray[np.uint8]], note: str = "") -> bytes:
    """Return a PNG of the test images with the most confidently correct and the most confidently wrong predictions.

    Args:
        tested: Result of the sealed test.
        pixels_of: Function that returns the RGB image of a test row; all images must have the same size.
        note: Note in a corner; may be empty.
    """
    examples = image_grid.pick_examples(tested.predictions, tested.decisions, tested.task)
    canvas = image_grid.compose(np.stack([pixels_of(example.row) for example in examples]), examples)
    height, width = canvas.shape[:2]
    margin, top = 20, 85  # pixels
    figure = style.new_figure(
        "Clearest right and worst wrong images",
        "sealed test, one image a case where possible",
        note,
        (width + 2 * margin) / style.DPI,
        (height + top) / style.DPI,
    )
    figure.figimage(canvas, margin, 0)
    for place, (name, colour) in enumerate((("right", style.RIGHT), ("wrong", style.WRONG))):
        x, y = (margin + 75 * place) / (width + 2 * margin), 1 - 60 / (height + top)
        figure.text(x, y, f"■ {name}", size=9, color=colour, va="top")
    return style.to_png(figure)


def _calibration(tested: TestResult, note: str, sample: str) -> Figure:
    sides = (
        (tested.uncalibrated, style.GREY, "before", "_uncalibrated"),
        (tested.predictions, style.BLUE, "after", ""),
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
    return TitledFigure(described, "Calibration", detail, note).figure()
