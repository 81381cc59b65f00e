"""Complete Matplotlib figures for notebooks, which users can change and save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bhsearch.evaluation.bootstrap import Interval, group_draws
from bhsearch.evaluation.curves import roc_band
from bhsearch.evaluation.predictions import Predictions
from bhsearch.reporting.figures import drawing, study, trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_N_DRAWS = 200  # enough for a confidence band


def enable_display() -> None:
    """Import `pyplot`, which enables the display of figures in IPython."""
    import matplotlib.pyplot as plt

    assert plt


def history_figure(values: Sequence[float | None], states: Sequence[str], note: str = "") -> Figure:
    """Draw the score of every trial in order, and the best score so far; see `study.history_picture`."""
    return drawing.matplotlib_figure(study.history_picture(values, states, note))


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
    ends = Interval(low, high) if np.isfinite(low) else None
    return drawing.matplotlib_figure(trial.roc_picture(band, auc, ends, note))
