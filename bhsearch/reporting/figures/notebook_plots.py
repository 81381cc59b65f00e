"""Complete Matplotlib figures for notebooks, which users can change and save."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bhsearch.evaluation.bootstrap import INTERVAL_NOTE, group_draws
from bhsearch.evaluation.curves import roc_band
from bhsearch.evaluation.predictions import Predictions
from bhsearch.reporting.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_N_DRAWS = 200  # enough for a confidence band


def enable_display() -> None:
    """Import `pyplot`, which enables the display of figures in IPython."""
    import matplotlib.pyplot as plt

    assert plt


def mean_roc_figure(predictions: Predictions, auc: float, low: float, high: float, note: str = "") -> Figure:
    """Draw the mean ROC curve over folds with its 95 % band.

    Args:
        predictions: Out-of-fold predictions of a trial.
        auc: Score of the trial.
        low: Lower end of the score's 95 % interval; nan if unknown.
        high: Upper end of the interval; nan if unknown.
        note: Note in a corner, such as that the data are synthetic; may be empty.
    """
    band = roc_band(predictions, group_draws(predictions.group, predictions.stratum, _N_DRAWS))
    has_band = bool(np.isfinite(band.low).any())
    detail = "out-of-fold, mean over folds, every case counts the same"
    figure = style.new_figure("ROC curve", detail + (f"\n95 % {INTERVAL_NOTE}" if has_band else ""), note)
    axes = style.place_axes(figure, 0.75, 0.6, 0.3, 0.75)
    style.unit_square(axes)
    axes.plot([0, 1], [0, 1], color=style.GREY, linestyle=style.DASHED, linewidth=1)
    if has_band:
        axes.fill_between(band.x, band.low, band.high, color=style.BLUE, alpha=0.18, linewidth=0)
    axes.plot(band.x, band.mean, color=style.BLUE, linewidth=2)
    text = f"AUC {auc:.3f}" + (f"  [{low:.3f}, {high:.3f}]" if np.isfinite(low) else "")
    axes.text(0.98, 0.06, text, transform=axes.transAxes, fontsize=11, ha="right", color=style.INK)
    style.label_axes(axes, "false positive rate (1 - specificity)", "true positive rate (sensitivity)")
    return figure
