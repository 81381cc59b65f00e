"""Figures of a sealed test, which state that the cases were not used for selection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation import curves, metrics
from bhsearch.evaluation.bootstrap import INTERVAL_NOTE, group_draws
from bhsearch.reporting.figures import image_grid, style
from bhsearch.tasks.binary import BINARY

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bhsearch.evaluation.held_out_test import TestResult

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
    predictions = tested.predictions
    draws = group_draws(predictions.group, predictions.stratum, _N_DRAWS_BAND)
    roc = _band(tested, curves.roc_band(predictions, draws), "ROC curve", "auc", note, part)
    style.label_axes(roc.axes[0], "false positive rate (1 - specificity)", "true positive rate (sensitivity)")
    found = _band(
        tested,
        curves.precision_recall_band(predictions, draws),
        "Precision and recall",
        "average_precision",
        note,
        part,
    )
    style.label_axes(found.axes[0], "recall (sensitivity)", "precision")
    figures = {
        "roc": roc,
        "precision_recall": found,
        "calibration": _calibration(tested, note, part),
        "confusion_matrix": _confusion(tested, note, part),
    }
    return {name: style.to_png(figure) for name, figure in figures.items()}


def worst_and_best(tested: TestResult, pixels_of: Callable[[int], npt.NDArray[np.uint8]], note: str = "") -> bytes:
    """Return a PNG of the most confident correct and the most confident wrong images.

    Args:
        tested: Result of the sealed test.
        pixels_of: Function that returns the RGB image of a test row; all images must have the same size.
        note: Note in a corner; may be empty.
    """
    examples = image_grid.pick_examples(tested.predictions, tested.decisions)
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


def _band(tested: TestResult, band: curves.Band, title: str, name: str, note: str, part: str) -> Figure:
    figure = style.new_figure(title, f"{part}, {_WEIGHTING}\n95 % {INTERVAL_NOTE}", note)
    axes = style.place_axes(figure, 0.75, 0.6, 0.3, 0.75)
    style.unit_square(axes)
    axes.fill_between(band.x, band.low, band.high, color=style.BLUE, alpha=0.18, linewidth=0)
    axes.plot(band.x, band.mean, color=style.BLUE, linewidth=2)
    guess = [0, 1] if name == "auc" else [band.base, band.base]
    axes.plot([0, 1], guess, color=style.GREY, linestyle=(0, (4, 3)), linewidth=1)
    ends = tested.intervals[name]
    shown = "AUC" if name == "auc" else "average precision"
    _say(axes, f"{shown} {tested.values[name]:.3f}  [{ends.low:.3f}, {ends.high:.3f}]")
    return figure


def _say(axes: Axes, text: str) -> None:
    axes.text(0.98, 0.06, text, transform=axes.transAxes, fontsize=11, ha="right", color=style.INK)


def _calibration(tested: TestResult, note: str, part: str) -> Figure:
    detail = f"{part}, {_WEIGHTING}\nof the deployed model, before and after calibration"
    figure = style.new_figure("Calibration", detail, note)
    axes = style.place_axes(figure, 0.75, 0.6, 0.3, 0.9)
    style.unit_square(axes)
    axes.plot([0, 1], [0, 1], color=style.GREY, linestyle=(0, (4, 3)), linewidth=1)
    sides = (
        (tested.uncalibrated, style.GREY, "before", "_uncalibrated"),
        (tested.predictions, style.BLUE, "after", ""),
    )
    for predictions, colour, name, suffix in sides:
        mass, mean, share = (values[0] for values in metrics.calibration_bins(predictions))
        filled = mass > 0
        label = f"{name}: ECE {tested.values[f'ece{suffix}']:.3f}, Brier {tested.values[f'brier{suffix}']:.3f}"
        axes.plot(mean[filled], share[filled], color=colour, linewidth=1.6, label=label)
        axes.scatter(mean[filled], share[filled], s=15 + 260 * mass[filled], color=colour, alpha=0.7, linewidth=0)
    style.legend_above(axes)
    style.label_axes(axes, "predicted P(malignant)", "share of malignant")
    return figure


def _confusion(tested: TestResult, note: str, part: str) -> Figure:
    predictions, threshold = tested.predictions, float(tested.decisions.threshold[0, 0])
    detail = f"{part}, {_WEIGHTING}; threshold {threshold:.3f}, fixed beforehand\nshades: share of the true class"
    figure = style.new_figure("Confusion matrix", detail, note, height=4.2)
    weights = (("images", np.ones_like(predictions.weight)), ("cases (images weighted)", predictions.weight))
    for place, (title, weight) in enumerate(weights):
        counts = metrics.confusion(predictions, tested.decisions.predicted, weight)[0]
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        axes = style.place_axes(figure, 0.85 + 2.85 * place, 0.75, 3.15 - 2.85 * place, 1.05)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, interpolation="nearest", aspect="auto")
        for true, predicted in np.ndindex(2, 2):
            share, count = shares[true, predicted], counts[true, predicted]
            text = f"{count:.0f}\n{share:.0%}" if float(count).is_integer() else f"{count:.1f}\n{share:.0%}"
            colour = "white" if share > 0.6 else style.INK
            axes.text(predicted, true, text, ha="center", va="center", fontsize=11, color=colour)
        axes.set_xticks([0, 1], BINARY.class_names)
        axes.set_yticks(
            [0, 1] if place == 0 else [], BINARY.class_names if place == 0 else [], rotation=90, va="center"
        )
        axes.tick_params(length=0, labelsize=9)
        axes.set_title(title, fontsize=10, color=style.INK)
        style.label_axes(axes, "predicted", "true" if place == 0 else "")
    return figure
