"""Common style of figures (colours, sizes, title and note) and PNG encoding."""

from __future__ import annotations

import struct
import textwrap
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bhsearch.reporting.figures.templates import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Palette of Okabe and Ito (2008), distinguishable with all common kinds of colour blindness.
BLUE, ORANGE, VERMILLION = "#0072B2", "#E69F00", "#D55E00"
INK, GREY, PALE = "#222222", "#7A7A7A", "#DDDDDD"
RIGHT, WRONG = BLUE, ORANGE
CYCLE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", VERMILLION)
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
        box = {"boxstyle": "round,pad=0.3", "facecolor": "#FFF3D6", "edgecolor": ORANGE, "linewidth": 0.8}
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


def to_png(picture: Figure | Panel) -> bytes:
    """Encode a figure as an opaque PNG of `DPI` dots per inch.

    A fixed filter and a low compression level take about half the time of `savefig`, for about the same file size. A
    study has several figures for each of hundreds of trials.

    Source:
        PNG specification (ISO/IEC 15948), filter type 2 (up): each row is stored as its difference from the row above.
    """
    rgb = picture.rgb() if isinstance(picture, Panel) else _drawn(picture)
    height, width = rgb.shape[:2]
    lines = np.empty((height, 1 + 3 * width), dtype=np.uint8)
    lines[:, 0] = 2
    pixels = rgb.reshape(height, 3 * width)
    lines[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=lines[1:, 1:])
    dots_per_metre = round(DPI / 0.0254)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            _chunk(b"pHYs", struct.pack(">IIB", dots_per_metre, dots_per_metre, 1)),
            _chunk(b"IDAT", zlib.compress(lines.tobytes(), 1)),
            _chunk(b"IEND", b""),
        ]
    )


def _drawn(figure: Figure) -> npt.NDArray[np.uint8]:
    canvas: Any = FigureCanvasAgg(figure)  # Any, because the methods have no types
    canvas.draw()
    drawn: npt.NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[:, :, :3]
    return drawn


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file: length, type, data and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
