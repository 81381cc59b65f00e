"""Draw described figures with Matplotlib, for print or for the screen."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, assert_never

import numpy as np
from matplotlib.ticker import NullFormatter

from bhsearch.reporting.figures import style, templates
from bhsearch.reporting.figures.description import (
    DASHED,
    DOTTED,
    Area,
    Axis,
    Bar,
    Cross,
    Description,
    Dot,
    Label,
    Line,
    Mark,
)
from bhsearch.reporting.figures.templates import Panel, Template

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOT = 0.8  # scale of dots relative to lines
_CROSS = 6.7  # width of crosses, in units of the description
_FOOT = 0.03  # height of crosses, as a share of the vertical axis
_DASHES = {DASHED: style.DASHED, DOTTED: ":", "": "-"}
_MARGINS = (0.75, 0.6, 0.3)  # inches: left, bottom and right
_TOP, _TOP_WITH_LEGEND = 0.75, 0.95  # inches
_ROW_OF_NAMES = 45  # characters of all names of a legend that fit into one row
_N_TEMPLATES = 8  # cached frames; a study needs a few


@dataclass(frozen=True)
class Look:
    """Sizes of the elements of a figure.

    Attributes:
        unit: Points per unit of the description.
        tick, axis, label, headline: Font sizes in points.
    """

    unit: float
    tick: float
    axis: float
    label: float
    headline: float


PRINT = Look(0.6, 7, 8, 7, 8)
SCREEN = Look(0.77, 8, 9, 9, 11)


@dataclass(frozen=True)
class TitledFigure:
    """A described figure with a title, for MLflow and notebooks.

    Attributes:
        description: Axes and marks.
        title: Title.
        detail: How to read the figure.
        note: Note in a corner; may be empty.
    """

    description: Description
    title: str
    detail: str
    note: str = ""

    def figure(self) -> Figure:
        """Return the complete Matplotlib figure."""
        names = {mark.name for mark in self.description.marks if isinstance(mark, Line | Dot | Cross)} - {""}
        drawn = style.new_figure(self.title, self.detail, self.note)
        axes = style.place_axes(drawn, *_MARGINS, _TOP_WITH_LEGEND if names else _TOP)
        draw(axes, self.description, SCREEN)
        if names:
            style.legend_above(axes, len(names) if len("".join(names)) <= _ROW_OF_NAMES else 4)
        return drawn

    def panel(self) -> Panel:
        """Return the figure as marks over a cached frame, which is faster for many similar figures without a legend."""
        described = self.description
        template = _template(self.title, self.detail, self.note, described.x, described.y, described.square)
        return Panel(template, artists(template.axes[0], described, SCREEN))


@lru_cache(_N_TEMPLATES)
def _template(title: str, detail: str, note: str, x: Axis, y: Axis, square: bool) -> Template:
    figure = style.new_figure(title, detail, note)
    axes = style.place_axes(figure, *_MARGINS, _TOP)
    frame(axes, Description(x, y, (), square), SCREEN)
    return Template(figure, axes)


def draw(axes: Axes, figure: Description, look: Look) -> None:
    """Draw a described figure into axes.

    Args:
        axes: Empty axes.
        figure: Description of axes and marks.
        look: Sizes.
    """
    frame(axes, figure, look)
    for order, artist in enumerate(artists(axes, figure, look)):
        artist.set_zorder(2 + order / 1000)
        axes.add_artist(artist)


def frame(axes: Axes, figure: Description, look: Look) -> None:
    """Set scale, range, ticks, grid and labels of axes, without the marks."""
    style.faint_grid(axes)
    if figure.x.log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    for axis, scale in ((axes.xaxis, figure.x), (axes.yaxis, figure.y)):
        axis.set_ticks(scale.marks(), [f"{value:g}" for value in scale.marks()])
    axes.set(xlim=(figure.x.low, figure.x.high), ylim=(figure.y.low, figure.y.high))
    if figure.square:
        for side in ("left", "bottom"):
            axes.spines[side].set_position(("outward", 3))
    axes.tick_params(labelsize=look.tick)
    axes.set_xlabel(figure.x.name, fontsize=look.axis, color=style.INK)
    axes.set_ylabel(figure.y.name, fontsize=look.axis, color=style.INK)


def artists(axes: Axes, figure: Description, look: Look) -> list[Artist]:
    """Return the marks and the headline of a figure as artists that are placed in axes, but not added to them.

    The first artist of each name carries the name as its label, from which Matplotlib makes a legend. Successive dots
    or bars of one look are one artist, because each artist takes time to draw.

    Args:
        axes: Axes with the scale and range of the figure, from `frame`.
        figure: Description of axes and marks.
        look: Sizes.
    """
    drawn, named = [], {""}
    for _, group in groupby(figure.marks, _look_of):
        marks = list(group)
        mark = marks[0]
        artist = _artist(axes, figure.y, marks, look)
        artist.set_clip_on(False)  # marks at an end of an axis are drawn whole
        name = mark.name if isinstance(mark, Line | Dot | Cross) else ""
        if name not in named:
            artist.set_label(name)
            named.add(name)
        drawn.append(artist)
    if figure.headline:
        drawn.append(
            templates.words(
                axes, 0.98, 0.06, figure.headline, of_axes=True, ha="right", fontsize=look.headline, color=style.INK
            )
        )
    return drawn


def _look_of(mark: Mark) -> Hashable:
    """Return a key that is equal for marks that one artist can draw."""
    if isinstance(mark, Dot):
        return mark.colour, mark.opacity, mark.hollow, mark.name
    return mark.colour if isinstance(mark, Bar) else id(mark)


def _artist(axes: Axes, y: Axis, marks: Sequence[Mark], look: Look) -> Artist:
    """Return the artist of a mark, or of several dots or bars of one look."""
    mark = marks[0]
    match mark:
        case Line():
            dash, width = _DASHES[mark.dash], look.unit * mark.width
            return templates.line(axes, mark.x, mark.y, color=mark.colour, linewidth=width, linestyle=dash)
        case Area():
            return templates.band(axes, mark.x, mark.low, mark.high, color=mark.colour, alpha=0.18, linewidth=0)
        case Bar():
            left, height = zip(*((bar.left, bar.height) for bar in marks if isinstance(bar, Bar)), strict=True)
            foot = np.zeros(len(left))
            return templates.boxes(axes, left, foot, mark.width, height, color=mark.colour, alpha=0.45, linewidth=0)
        case Dot():
            x, up, radius = zip(*((dot.x, dot.y, dot.radius) for dot in marks if isinstance(dot, Dot)), strict=True)
            edge = {"edgecolor": mark.colour, "linewidth": 0.9} if mark.hollow else {"linewidth": 0}
            areas = np.pi * (look.unit * _DOT * np.asarray(radius)) ** 2
            face = "white" if mark.hollow else mark.colour
            return templates.discs(axes, x, up, areas, facecolor=face, alpha=mark.opacity, **edge)
        case Cross():
            foot_of_axis = y.low + _FOOT * (y.high - y.low)
            size = _CROSS * look.unit
            return templates.line(
                axes, [mark.x], [foot_of_axis], color=style.INK, marker="x", markersize=size, linestyle="none"
            )
        case Label():
            across = np.interp(axes.transData.transform((mark.x, mark.y))[0], axes.bbox.intervalx, (0, 1)).item()
            side = "left" if across < 0.25 else "right" if across > 0.75 else "center"
            return templates.words(
                axes, mark.x, mark.y, mark.text, up=look.unit * mark.up, ha=side, fontsize=look.label, color=style.INK
            )
        case _:
            assert_never(mark)
