"""Figure that shows how optimistic scores with leaky folds are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bhsearch.reporting.figures import palette, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def leakage_figure(groupings: Sequence[tuple[str, Sequence[float]]], detail: str, note: str = "") -> Figure:
    """Draw one bar per grouping of the folds, from 0.5 to the mean AUC, with each repeat as a dot.

    Leaky groupings are orange, the leak-free grouping is blue.

    Args:
        groupings: Name of each grouping, and AUC of each repeat. The last grouping must be the leak-free one.
        detail: Description of the measurement, shown below the title.
        note: Note in a corner; may be empty.
    """
    figure = style.new_figure("One configuration, the same images, other folds", detail, note, height=3.4)
    axes = style.place_axes(figure, 1.0, 0.55, 0.6, 0.8)
    for place, (_, aucs) in enumerate(groupings):
        mean, honest = float(np.mean(aucs)), place == len(groupings) - 1
        colour = palette.BLUE if honest else palette.ORANGE
        axes.barh(place, mean - 0.5, left=0.5, height=0.55, color=colour, alpha=0.85)
        axes.plot(aucs, [place] * len(aucs), "o", color=palette.INK, markersize=3, alpha=0.6)
        right = max(mean, *aucs)
        axes.annotate(f"{mean:.2f}", (right, place), (6, 0), textcoords="offset points", va="center", fontsize=10)
    axes.set(yticks=range(len(groupings)), yticklabels=[f"by {name}" for name, _ in groupings])
    axes.set_ylim(len(groupings) - 0.5, -0.5)
    lowest = min(min(aucs) for _, aucs in groupings)
    axes.set_xlim(min(0.5, np.floor(lowest * 20) / 20), 1.0)
    axes.axvline(0.5, color=palette.GREY, linewidth=0.8)
    style.faint_grid(axes)
    style.label_axes(axes, "ROC AUC, every case counting the same (0.5 is chance)", "")
    return figure
