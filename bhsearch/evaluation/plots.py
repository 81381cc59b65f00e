"""Pictures of one trial, drawn from arrays that other modules computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bhsearch.data.index import CLASS_NAMES
from bhsearch.evaluation import style
from bhsearch.evaluation.bootstrap import INTERVAL_NOTE, Interval
from bhsearch.evaluation.metrics import N_CALIBRATION_BINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bhsearch.evaluation.curves import Band
    from bhsearch.evaluation.predictions import FloatArray


def learning_figure(
    auc: npt.ArrayLike, loss: npt.ArrayLike, note: str = "", training_loss: npt.ArrayLike | None = None
) -> Figure:
    """Learning curves: the score and the loss after every epoch, one above the other.

    Args:
        auc: Out-of-fold score per epoch. Shape (E,).
        loss: Validation loss per epoch, mean over folds. Shape (E,).
        note: Shown in a corner.
        training_loss: Loss on the training rows. Shape (E,). None leaves it out.
    """
    figure = style.new_figure("Learning curves", "out-of-fold, mean over folds; the last epoch counts", note)
    upper = style.place_axes(figure, 0.75, 2.45, 0.3, 0.75)
    lower = style.place_axes(figure, 0.75, 0.55, 0.3, 2.6)
    epochs = np.arange(1, len(np.asarray(auc)) + 1)
    marker = "o" if len(epochs) <= 30 else None
    lines = [(upper, auc, style.BLUE, "AUC"), (lower, loss, style.VERMILLION, "validation")]
    if training_loss is not None:
        lines.append((lower, training_loss, style.GREY, "training"))
    for axes, values, colour, name in lines:
        axes.plot(epochs, np.asarray(values), color=colour, marker=marker, markersize=3.5, linewidth=1.6, label=name)
        style.faint_grid(axes)
        axes.locator_params(axis="y", nbins=4)
        axes.locator_params(axis="x", integer=True, nbins=5)
        axes.set_xlim(0.5, len(epochs) + 0.5)
    upper.tick_params(labelbottom=False)
    style.label_axes(upper, "", "ROC AUC")
    style.label_axes(lower, "epoch", "loss")
    last = float(np.asarray(auc)[-1])
    upper.annotate(f"{last:.3f}", (epochs[-1], last), (0, 6), textcoords="offset points", ha="right", fontsize=9)
    if training_loss is not None:
        style.legend_above(lower)
    return figure


def roc_figure(band: Band, auc: float, ends: Interval | None = None, note: str = "") -> Figure:
    """Mean ROC curve over folds with its band.

    Args:
        band: From `roc_band`.
        auc: The trial's score.
        ends: Its interval.
        note: Shown in a corner.
    """
    figure, axes = _band_figure("ROC curve", band, ends, note)
    axes.plot([0, 1], [0, 1], color=style.GREY, linestyle=(0, (4, 3)), linewidth=1)
    style.label_axes(axes, "false positive rate (1 - specificity)", "true positive rate (sensitivity)")
    _say(axes, "AUC", auc, ends, 0.06)
    return figure


def precision_recall_figure(
    band: Band, average_precision: float, ends: Interval | None = None, note: str = ""
) -> Figure:
    """Mean precision over folds at each recall, with its band; the dashed line is what guessing gives.

    Args:
        band: From `precision_recall_band`.
        average_precision: The trial's average precision.
        ends: Its interval.
        note: Shown in a corner.
    """
    figure, axes = _band_figure("Precision and recall", band, ends, note)
    axes.axhline(band.base, color=style.GREY, linestyle=(0, (4, 3)), linewidth=1)
    axes.text(0.01, band.base - 0.015, f"guessing {band.base:.2f}", fontsize=8, color=style.GREY, va="top")
    style.label_axes(axes, "recall (sensitivity)", "precision")
    _say(axes, "average precision", average_precision, ends, 0.06)
    return figure


def _band_figure(title: str, band: Band, ends: Interval | None, note: str) -> tuple[Figure, Axes]:
    """A square of 0 to 1 with a mean line and, if there is one, its band."""
    has_band = bool(np.isfinite(band.low).any())
    detail = "out-of-fold, mean over folds, every case counts the same"
    if has_band or ends is not None:
        detail += f"\n95 % {INTERVAL_NOTE}"
    figure = style.new_figure(title, detail, note)
    axes = style.place_axes(figure, 0.75, 0.6, 0.3, 0.75)
    style.unit_square(axes)
    if has_band:
        axes.fill_between(band.x, band.low, band.high, color=style.BLUE, alpha=0.18, linewidth=0)
    axes.plot(band.x, band.mean, color=style.BLUE, linewidth=2)
    return figure, axes


def _say(axes: Axes, name: str, value: float, ends: Interval | None, height: float) -> None:
    """The number of the picture, in its lower right corner."""
    text = f"{name} {value:.3f}" + (f"  [{ends.low:.3f}, {ends.high:.3f}]" if ends else "")
    axes.text(0.98, height, text, transform=axes.transAxes, fontsize=11, ha="right", color=style.INK)


def calibration_figure(bins: tuple[FloatArray, FloatArray, FloatArray], ece: float, note: str = "") -> Figure:
    """Reliability diagram: observed share of malignant against predicted probability, and where the images lie.

    Args:
        bins: From `calibration_bins`: share of the weight, mean probability, share of malignant; each of shape
            (R, n_bins). Repeats are pooled here.
        ece: Expected calibration error.
        note: Shown in a corner.
    """
    mass, mean, share = bins
    pooled = mass.sum(axis=0)
    filled = pooled > 0
    x, y = (np.nansum(mass * values, axis=0)[filled] / pooled[filled] for values in (mean, share))
    detail = "out-of-fold, every case counts the same\narea of a point: share of the weight"
    figure = style.new_figure("Calibration", detail, note)
    upper = style.place_axes(figure, 0.75, 1.5, 0.3, 0.75)
    lower = style.place_axes(figure, 0.75, 0.6, 0.3, 3.45)
    style.unit_square(upper)
    upper.plot([0, 1], [0, 1], color=style.GREY, linestyle=(0, (4, 3)), linewidth=1)
    upper.plot(x, y, color=style.BLUE, linewidth=1.6)
    upper.scatter(x, y, s=15 + 260 * pooled[filled] / pooled.sum(), color=style.BLUE, alpha=0.85, linewidth=0)
    upper.text(0.98, 0.07, f"ECE {ece:.3f}", transform=upper.transAxes, fontsize=11, ha="right", color=style.INK)
    upper.tick_params(labelbottom=False)
    edges = np.arange(N_CALIBRATION_BINS) / N_CALIBRATION_BINS
    lower.bar(edges, pooled / pooled.sum(), width=0.094, align="edge", color=style.BLUE, alpha=0.45)
    lower.set(xlim=(-0.01, 1.01), xticks=style.UNIT_TICKS)
    lower.locator_params(axis="y", nbins=3)
    style.label_axes(upper, "", "share of malignant")
    style.label_axes(lower, "predicted P(malignant)", "weight")
    return figure


def confusion_figure(images: FloatArray, cases: FloatArray, note: str = "") -> Figure:
    """Two confusion matrices: images as they are, and with every case counting the same.

    Args:
        images: From `confusion` with a weight of 1. Shape (R, 2, 2); the mean over repeats is shown.
        cases: From `confusion` with the case weights. Shape (R, 2, 2).
        note: Shown in a corner.
    """
    detail = "out-of-fold; each fold's threshold comes from the other folds\nshades: share of the true class"
    figure = style.new_figure("Confusion matrix", detail, note, height=4.2)
    for place, (title, matrix) in enumerate((("images", images), ("cases (images weighted)", cases))):
        counts = matrix.mean(axis=0)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        axes = style.place_axes(figure, 0.85 + 2.85 * place, 0.75, 3.15 - 2.85 * place, 1.05)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, interpolation="nearest", aspect="auto")
        for true, predicted in np.ndindex(2, 2):
            share, count = shares[true, predicted], counts[true, predicted]
            shown = f"{count:.0f}" if float(count).is_integer() else f"{count:.1f}"
            colour = "white" if share > 0.6 else style.INK
            axes.text(predicted, true, f"{shown}\n{share:.0%}", ha="center", va="center", fontsize=11, color=colour)
        axes.set_xticks([0, 1], CLASS_NAMES)
        axes.set_yticks([0, 1] if place == 0 else [], CLASS_NAMES if place == 0 else [], rotation=90, va="center")
        axes.tick_params(length=0, labelsize=9)
        axes.set_title(title, fontsize=10, color=style.INK)
        style.label_axes(axes, "predicted", "true" if place == 0 else "")
    return figure
