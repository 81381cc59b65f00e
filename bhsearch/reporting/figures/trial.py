"""Figures of one trial, drawn from arrays."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps

from bhsearch.evaluation.bootstrap import INTERVAL_NOTE, Interval
from bhsearch.reporting.figures import description, drawing, style, templates
from bhsearch.reporting.figures.description import Axis, Description
from bhsearch.reporting.figures.drawing import TitledFigure
from bhsearch.reporting.figures.templates import Panel, Template
from bhsearch.reporting.report_numbers import pooled_points

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

    from bhsearch.evaluation.curves import Band
    from bhsearch.evaluation.predictions import FloatArray
    from bhsearch.tasks.base import Task

BLUES = colormaps["Blues"]
OUT_OF_FOLD = "out-of-fold, mean over folds, every case counts the same"
CROSS_FITTED = "out-of-fold; each fold's threshold comes from the other folds"
_N_TEMPLATES = 8  # cached templates of each kind; a study needs one or two


def learning_figure(
    auc: npt.ArrayLike,
    loss: npt.ArrayLike,
    note: str = "",
    training_loss: npt.ArrayLike | None = None,
    unit: str = "epoch",
    penalties: npt.ArrayLike | None = None,
) -> Figure:
    """Draw learning curves, with the score in an upper and the loss in a lower panel.

    Args:
        auc: Out-of-fold score after each step. Shape (n_steps,).
        loss: Validation loss after each step, mean over folds. Shape (n_steps,).
        note: Note in a corner; may be empty.
        training_loss: Training loss after each step; None to leave the curve out. Shape (n_steps,).
        unit: Unit of the steps, used as the label of the horizontal axis.
        penalties: Logarithm of the penalty of each step, for validation curves over penalties, in descending order;
            None for steps of the training. Shape (n_steps,).
    """
    title = "Learning curves" if penalties is None else "Validation curve"
    figure = style.new_figure(title, "out-of-fold, mean over folds; the last point counts", note)
    upper = style.place_axes(figure, 0.75, 2.45, 0.3, 0.75)
    lower = style.place_axes(figure, 0.75, 0.55, 0.3, 2.6)
    steps = np.arange(1, len(np.asarray(auc)) + 1) if penalties is None else np.asarray(penalties)
    margin = 0.5 if penalties is None else -0.25  # penalties are drawn in the order in which they are solved
    marker = "o" if len(steps) <= 30 else None
    lines = [(upper, auc, style.BLUE, "AUC"), (lower, loss, style.VERMILLION, "validation")]
    if training_loss is not None:
        lines.append((lower, training_loss, style.GREY, "training"))
    for axes, values, colour, name in lines:
        axes.plot(steps, np.asarray(values), color=colour, marker=marker, markersize=3.5, linewidth=1.6, label=name)
        style.faint_grid(axes)
        axes.locator_params(axis="y", nbins=4)
        axes.locator_params(axis="x", integer=penalties is None, nbins=5)
        axes.set_xlim(steps[0] - margin, steps[-1] + margin)
    upper.tick_params(labelbottom=False)
    style.label_axes(upper, "", "ROC AUC")
    style.label_axes(lower, unit, "loss")
    last = float(np.asarray(auc)[-1])
    upper.annotate(f"{last:.3f}", (steps[-1], last), (0, 6), textcoords="offset points", ha="right", fontsize=9)
    if training_loss is not None:
        style.legend_above(lower)
    return figure


def roc_figure(
    band: Band, auc: float, ends: Interval | None = None, note: str = "", sample: str = OUT_OF_FOLD
) -> TitledFigure:
    """Return a titled figure of the mean ROC curve over folds with its confidence band.

    Args:
        band: Curve and band from `roc_band`.
        auc: AUC.
        ends: Interval of the AUC; None to leave it out.
        note: Note in a corner; may be empty.
        sample: Sample and weighting, shown below the title.
    """
    described = description.roc(band, _number("AUC", auc, ends))
    return TitledFigure(described, "ROC curve", _detail(sample, band, ends), note)


def precision_recall_figure(
    band: Band, average_precision: float, ends: Interval | None = None, note: str = "", sample: str = OUT_OF_FOLD
) -> TitledFigure:
    """Return a titled figure of the mean precision over folds against recall, with its confidence band.

    Args:
        band: Curve and band from `precision_recall_band`.
        average_precision: Average precision.
        ends: Interval of the average precision; None to leave it out.
        note: Note in a corner; may be empty.
        sample: Sample and weighting, shown below the title.
    """
    described = description.precision_recall(band, _number("average precision", average_precision, ends))
    return TitledFigure(described, "Precision and recall", _detail(sample, band, ends), note)


def _detail(sample: str, band: Band, ends: Interval | None) -> str:
    """Return the sample, and what intervals mean if the figure shows any."""
    return sample + (f"\n95 % {INTERVAL_NOTE}" if _is_known(ends) or band.has_interval else "")


def _number(name: str, value: float, ends: Interval | None) -> str:
    return f"{name} {value:.3f}" + (f"  [{ends.low:.3f}, {ends.high:.3f}]" if ends and _is_known(ends) else "")


def _is_known(ends: Interval | None) -> bool:
    return ends is not None and bool(np.isfinite(ends).all())


def calibration_figure(bins: tuple[FloatArray, FloatArray, FloatArray], ece: float, note: str = "") -> Panel:
    """Draw a reliability diagram, and a histogram of the predicted probabilities.

    Args:
        bins: Share of the weight, mean probability, and share of malignant images in each bin, from
            `calibration_bins`; each of shape (n_repeats, n_bins). The repeats are pooled.
        ece: Expected calibration error.
        note: Note in a corner; may be empty.
    """
    curve = description.calibration_curves([(pooled_points(*bins), style.BLUE, "")], f"ECE {ece:.3f}")
    weights = description.calibration_weights(bins[0].sum(axis=0) / bins[0].sum())
    template = _calibration_template(note, (curve.x, curve.y), (weights.x, weights.y))
    parts = zip(template.axes, (curve, weights), strict=True)
    return Panel(template, [artist for axes, part in parts for artist in drawing.artists(axes, part, drawing.SCREEN)])


@lru_cache(_N_TEMPLATES)
def _calibration_template(note: str, curve: tuple[Axis, Axis], weights: tuple[Axis, Axis]) -> Template:
    detail = "out-of-fold, every case counts the same\narea of a point: share of the weight"
    figure = style.new_figure("Calibration", detail, note)
    upper = style.place_axes(figure, 0.75, 1.5, 0.3, 0.75)
    lower = style.place_axes(figure, 0.75, 0.6, 0.3, 3.45)
    drawing.frame(upper, Description(*curve, (), square=True), drawing.SCREEN)
    drawing.frame(lower, Description(*weights, (), square=True), drawing.SCREEN)
    lower.grid(visible=False)
    upper.tick_params(labelbottom=False)
    upper.set_xlabel("")
    return Template(figure, upper, lower)


def confusion_figure(
    images: FloatArray, cases: FloatArray, task: Task, note: str = "", sample: str = CROSS_FITTED
) -> Panel:
    """Draw two confusion matrices, one with equal weight per image and one with equal weight per case.

    The mean over the repeats is shown.

    Args:
        images: Matrices from `confusion` with a weight of 1 per image. Shape (n_repeats, 2, 2).
        cases: Matrices from `confusion` with case weights. Shape (n_repeats, 2, 2).
        task: Task with the class names.
        note: Note in a corner; may be empty.
        sample: Sample and threshold, shown below the title.
    """
    template = _confusion_template(note, task.class_names, sample)
    artists: list[Artist] = []
    for axes, matrix in zip(template.axes, (images, cases), strict=True):
        counts = matrix.mean(axis=0)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        true, predicted = np.indices((2, 2)).reshape(2, -1)
        shades = BLUES(shares.ravel() / 1.15)
        artists.append(
            templates.boxes(axes, predicted - 0.5, true - 0.5, 1.0, np.ones(4), facecolor=shades, linewidth=0)
        )
        for row, column in np.ndindex(2, 2):
            share, count = shares[row, column], counts[row, column]
            shown = f"{count:.0f}" if float(count).is_integer() else f"{count:.1f}"
            look: dict[str, Any] = {
                "ha": "center",
                "va": "center",
                "fontsize": 11,
                "color": "white" if share > 0.6 else style.INK,
            }
            artists.append(templates.words(axes, column, row, f"{shown}\n{share:.0%}", **look))
    return Panel(template, artists)


@lru_cache(_N_TEMPLATES)
def _confusion_template(note: str, class_names: tuple[str, ...], sample: str) -> Template:
    figure = style.new_figure("Confusion matrix", f"{sample}\nshades: share of the true class", note, height=4.2)
    both = []
    for place, title in enumerate(("images", "cases (images weighted)")):
        axes = style.place_axes(figure, 0.85 + 2.85 * place, 0.75, 3.15 - 2.85 * place, 1.05)
        axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5))
        axes.set_xticks([0, 1], class_names)
        axes.set_yticks([0, 1] if place == 0 else [], class_names if place == 0 else [], rotation=90, va="center")
        axes.tick_params(length=0, labelsize=9)
        axes.set_title(title, fontsize=10, color=style.INK)
        style.label_axes(axes, "predicted", "true" if place == 0 else "")
        both.append(axes)
    return Template(figure, *both)
