"""Common style of Matplotlib figures: sizes, title and note, axes, and legend."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from bhsearch.reporting.figures.palette import GREY, INK, NOTE, ORANGE, PALE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHED = (0, (4, 3))
WIDTH, HEIGHT = 6.4, 4.8  # inches
DPI = 100
_NOTE_LENGTH = 36  # characters per line


def new_figure(title: str, detail: str = "", note: str = "", width: float = WIDTH, height: float = HEIGHT) -> Figure:
    """Return an empty figure with a title, a line of detail below the title, and a highlighted note in a corner.

    Args:
        title: Title.
        detail: How to read the figure; lines of at most 62 characters fit below the note.
        note: Note that must be visible in the figure, such as "synthetic data (phantom)"; may be empty.
        width: Width in inches.
        height: Height in inches.

    Returns:
        A figure created without pyplot, so that no state is shared between threads.
    """
    figure = Figure(figsize=(width, height), dpi=DPI)
    left = 0.25 / width
    figure.text(left, 1 - 0.13 / height, title, size=12, weight="bold", color=INK, va="top")
    if detail:
        figure.text(left, 1 - 0.38 / height, detail, size=8, color=GREY, va="top")
    if note:
        box = {"boxstyle": "round,pad=0.3", "facecolor": NOTE, "edgecolor": ORANGE, "linewidth": 0.8}
        shown = textwrap.fill(note, _NOTE_LENGTH)
        figure.text(1 - left, 1 - 0.14 / height, shown, size=8, color=INK, ha="right", va="top", bbox=box)
    return figure


def place_axes(figure: Figure, left: float, bottom: float, right: float, top: float) -> Axes:
    """Add axes with given margins to a figure, and return the axes.

    Margins are in inches and fixed, because a layout engine would draw every figure twice.
    """
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(labelsize=8, colors=INK, color=GREY, length=3)
    return axes


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Label both axes with the common font size."""
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)


def faint_grid(axes: Axes) -> None:
    """Draw a faint grid behind the data."""
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)


def legend_above(axes: Axes, n_columns: int = 4) -> None:
    """Add a legend above the upper right corner of the axes, where it hides no data."""
    axes.legend(
        fontsize=8,
        frameon=False,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=n_columns,
        borderpad=0,
        borderaxespad=0.8,
        columnspacing=1.2,
    )


def to_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
