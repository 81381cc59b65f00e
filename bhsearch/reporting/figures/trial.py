"""Pictures of one trial, described from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.bootstrap import INTERVAL_NOTE, Interval
from bhsearch.reporting.figures import description, palette
from bhsearch.reporting.figures.marks import (
    Axis,
    Box,
    Cell,
    Description,
    Dot,
    Label,
    Line,
    Mark,
    nice_ticks,
    whole_ticks,
)
from bhsearch.reporting.figures.picture import HEIGHT, LEFT, RIGHT, WIDTH, Panel, Picture, single
from bhsearch.reporting.report_numbers import pooled_points
from bhsearch.reporting.svg.elements import SIZE
from bhsearch.reporting.svg.text_width import shortened, text_width

if TYPE_CHECKING:
    from bhsearch.evaluation.curves import Band
    from bhsearch.evaluation.predictions import FloatArray
    from bhsearch.tasks.base import Task

OUT_OF_FOLD = "out-of-fold, mean over folds, every case counts the same"
CROSS_FITTED = "out-of-fold; each fold's threshold comes from the other folds"
_MOST_POINTS = 30  # largest number of steps that are marked with points
# Confusion matrices: largest side, distance, and longest name of a class in units.
_MATRIX, _BETWEEN, _LONGEST_CLASS = 240.0, 45.0, 90.0


def learning_picture(
    auc: npt.ArrayLike,
    loss: npt.ArrayLike,
    note: str = "",
    training_loss: npt.ArrayLike | None = None,
    unit: str = "epoch",
    penalties: npt.ArrayLike | None = None,
) -> Picture:
    """Return a picture of learning curves, with the score in an upper and the loss in a lower panel.

    Args:
        auc: Out-of-fold score after each step. Shape (n_steps,).
        loss: Validation loss after each step, mean over folds. Shape (n_steps,).
        note: Note in a corner; may be empty.
        training_loss: Training loss after each step; None to leave the curve out. Shape (n_steps,).
        unit: Unit of the steps, used as the label of the horizontal axis.
        penalties: Logarithm of the penalty of each step, for validation curves over penalties, in descending order;
            None for steps of the training. Shape (n_steps,).
    """
    score = np.asarray(auc, np.float64)
    steps = np.arange(1.0, len(score) + 1) if penalties is None else np.asarray(penalties, np.float64)
    first, last = float(steps[0]), float(steps[-1])
    if penalties is None:
        x = Axis(unit, first - 0.5, last + 0.5, ticks=whole_ticks(1, len(score)))
    else:  # drawn in the order in which they are solved
        x = Axis(unit, first + 0.25, last - 0.25, ticks=nice_ticks(last, first) if first > last else (first,))
    losses = [(np.asarray(loss, np.float64), palette.VERMILLION, "validation" if training_loss is not None else "")]
    if training_loss is not None:
        losses.append((np.asarray(training_loss, np.float64), palette.GREY, "training"))
    upper = Description(
        x,
        _axis_of("ROC AUC", score),
        [*_curve(steps, score, palette.BLUE), Label(last, float(score[-1]), f"{score[-1]:.3f}")],
    )
    lower = Description(
        x,
        _axis_of("loss", *(values for values, _, _ in losses)),
        [mark for values, colour, name in losses for mark in _curve(steps, values, colour, name)],
    )
    panels = [
        Panel(upper, Box(LEFT, 10, WIDTH - RIGHT, 170), shares_x=True),
        Panel(lower, Box(LEFT, 200, WIDTH - RIGHT, 350)),
    ]
    title = "Learning curves" if penalties is None else "Validation curve"
    alt = f"ROC AUC {score[-1]:.3f} and loss {losses[0][0][-1]:.3f} at the last point"
    return Picture(title, "out-of-fold, mean over folds; the last point counts", note, panels, alt=alt)


def _curve(steps: FloatArray, values: FloatArray, colour: str, name: str = "") -> list[Mark]:
    """Return a line through the finite values, with a point per value if there are few."""
    known = np.isfinite(values)
    x, y = steps[known].tolist(), values[known].tolist()
    dots = [Dot(a, b, colour, 2.6, opacity=1.0) for a, b in zip(x, y, strict=True)] if len(x) <= _MOST_POINTS else []
    return [Line(x, y, colour, 1.8, name=name), *dots]


def _axis_of(name: str, *curves: FloatArray) -> Axis:
    """Return an axis for the finite values of curves, with a margin on both sides."""
    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(name, low - room, high + room)


def roc_picture(
    band: Band, auc: float, ends: Interval | None = None, note: str = "", sample: str = OUT_OF_FOLD
) -> Picture:
    """Return a picture of the mean ROC curve over folds with its confidence band.

    Args:
        band: Curve and band from `roc_band`.
        auc: AUC.
        ends: Interval of the AUC; None to leave it out.
        note: Note in a corner; may be empty.
        sample: Sample and weighting, shown below the title.
    """
    described = description.roc(band, _number("AUC", auc, ends))
    return single(described, "ROC curve", _detail(sample, band, ends), note)


def precision_recall_picture(
    band: Band, average_precision: float, ends: Interval | None = None, note: str = "", sample: str = OUT_OF_FOLD
) -> Picture:
    """Return a picture of the mean precision over folds against recall, with its confidence band.

    Args:
        band: Curve and band from `precision_recall_band`.
        average_precision: Average precision.
        ends: Interval of the average precision; None to leave it out.
        note: Note in a corner; may be empty.
        sample: Sample and weighting, shown below the title.
    """
    described = description.precision_recall(band, _number("average precision", average_precision, ends))
    return single(described, "Precision and recall", _detail(sample, band, ends), note)


def _detail(sample: str, band: Band, ends: Interval | None) -> str:
    """Return the sample, and what intervals mean if the figure shows any."""
    return sample + (f"\n95 % {INTERVAL_NOTE}" if _is_known(ends) or band.has_interval else "")


def _number(name: str, value: float, ends: Interval | None) -> str:
    return f"{name} {value:.3f}" + (f" [{ends.low:.3f}, {ends.high:.3f}]" if ends and _is_known(ends) else "")


def _is_known(ends: Interval | None) -> bool:
    return ends is not None and bool(np.isfinite(ends).all())


def calibration_picture(bins: tuple[FloatArray, FloatArray, FloatArray], ece: float, note: str = "") -> Picture:
    """Return a picture of a reliability diagram, and of a histogram of the predicted probabilities.

    Args:
        bins: Share of the weight, mean probability, and share of malignant images in each bin, from
            `calibration_bins`; each of shape (n_repeats, n_bins). The repeats are pooled.
        ece: Expected calibration error.
        note: Note in a corner; may be empty.
    """
    curve = description.calibration_curves([(pooled_points(*bins), palette.BLUE, "")], f"ECE {ece:.3f}")
    weights = description.calibration_weights(bins[0].sum(axis=0) / bins[0].sum())
    panels = [
        Panel(curve, Box(LEFT, 10, WIDTH - RIGHT, 260), shares_x=True),
        Panel(weights, Box(LEFT, 280, WIDTH - RIGHT, 350)),
    ]
    detail = "out-of-fold, every case counts the same\narea of a point: share of the weight"
    return Picture("Calibration", detail, note, panels, height=HEIGHT)


def confusion_picture(
    images: FloatArray, cases: FloatArray, task: Task, note: str = "", sample: str = CROSS_FITTED
) -> Picture:
    """Return a picture of two confusion matrices, one with equal weight per image and one with equal weight per case.

    The mean over the repeats is shown.

    Args:
        images: Matrices from `confusion` with a weight of 1 per image. Shape (n_repeats, 2, 2).
        cases: Matrices from `confusion` with case weights. Shape (n_repeats, 2, 2).
        task: Task with the class names.
        note: Note in a corner; may be empty.
        sample: Sample and threshold, shown below the title.
    """
    names = [shortened(name, _LONGEST_CLASS, SIZE) for name in task.class_names]
    left = 45.0 + max(text_width(name, SIZE) for name in names)
    side = min((WIDTH - RIGHT - _BETWEEN - left) / 2, _MATRIX)
    panels, said = [], []
    for place, (title, matrix) in enumerate((("images", images), ("cases (images weighted)", cases))):
        counts = matrix.mean(axis=0)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        cells = [
            Cell(
                column - 0.5,
                row - 0.5,
                1.0,
                1.0,
                palette.blues(float(shares[row, column]) / 1.15),
                f"{_count(float(counts[row, column]))}\n{shares[row, column]:.0%}",
            )
            for row, column in np.ndindex(2, 2)
        ]
        figure = Description(
            _classes("predicted", names, -0.5, 1.5),
            _classes("true" if place == 0 else "", names if place == 0 else ("", ""), 1.5, -0.5),
            cells,
            has_grid=False,
        )
        corner = left + (side + _BETWEEN) * place
        panels.append(Panel(figure, Box(corner, 28, corner + side, 28 + side), title))
        said.append(f"{title}: " + ", ".join(_in_words(counts, task.class_names)))
    detail = f"{sample}\nshades: share of the true class"
    return Picture("Confusion matrix", detail, note, panels, height=78.0 + side, alt="; ".join(said))


def _classes(name: str, class_names: Sequence[str], low: float, high: float) -> Axis:
    return Axis(name, low, high, ticks=(0.0, 1.0), labels=class_names)


def _count(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() else f"{value:.1f}"


def _in_words(counts: FloatArray, names: Sequence[str]) -> list[str]:
    return [f"{_count(float(counts[a, b]))} {names[a]} predicted {names[b]}" for a, b in np.ndindex(2, 2)]
