"""Draw described figures with Matplotlib, for print and for notebooks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np
from matplotlib.collections import CircleCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from matplotlib.transforms import IdentityTransform

from bhsearch.reporting.figures import palette, style
from bhsearch.reporting.figures.marks import (
    DASHED,
    DOTTED,
    TURN,
    Area,
    Bar,
    Cell,
    Cross,
    Description,
    Dot,
    Label,
    Line,
    Mark,
)
from bhsearch.reporting.svg.frame import labels_are_turned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bhsearch.reporting.figures.picture import Picture

_DOT = 0.8  # scale of dots relative to lines
_CROSS = 6.7  # width of crosses, in units of the description
_FOOT = 0.03  # height of crosses, as a share of the vertical axis
_DASHES: dict[str, Any] = {DASHED: style.DASHED, DOTTED: ":", "": "-"}  # Any: Matplotlib types them as literals
_TITLE_HEIGHT = 70.0  # units


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


def matplotlib_figure(picture: Picture, has_title: bool = True) -> Figure:
    """Return the panels of a picture as a Matplotlib figure of the same size.

    Args:
        picture: Picture of described figures; images and words are not drawn.
        has_title: Whether title, detail and note are drawn.
    """
    units = style.DPI  # per inch
    top = _TITLE_HEIGHT if has_title else 0.0
    size = picture.width / units, (picture.height + top) / units
    figure = style.new_figure(picture.title, picture.detail, picture.note, *size) if has_title else Figure(size)
    for panel in picture.panels:
        left, upper, right, lower = panel.box
        margins = (left, picture.height - lower, picture.width - right, upper + top)
        axes = style.place_axes(figure, *(margin / units for margin in margins))
        draw(axes, panel.figure, SCREEN)
        axes.set_title(panel.title, fontsize=SCREEN.axis, color=palette.INK)
        if panel.shares_x:
            axes.tick_params(labelbottom=False)
            axes.set_xlabel("")
        if panel.named:
            style.legend_above(axes)
    return figure


def draw(axes: Axes, figure: Description, look: Look) -> None:
    """Draw a described figure into axes.

    The first artist of each name carries the name as its label, from which Matplotlib makes a legend. Successive dots
    or bars of one look are one artist, because each artist takes time to draw.

    Args:
        axes: Empty axes.
        figure: Description of axes and marks.
        look: Sizes.
    """
    _frame(axes, figure, look)
    named = {""}
    for order, (_, group) in enumerate(groupby(figure.marks, _look_of)):
        marks = list(group)
        mark = marks[0]
        name = mark.name if isinstance(mark, Line | Dot | Cross) else ""
        _mark(axes, figure, marks, look, 2 + order / 1000, "" if name in named else name)
        named.add(name)
    if figure.headline:
        axes.text(
            0.98,
            0.06,
            figure.headline,
            transform=axes.transAxes,
            ha="right",
            fontsize=look.headline,
            color=palette.INK,
        )


def _frame(axes: Axes, figure: Description, look: Look) -> None:
    """Set scale, range, ticks, grid and labels of axes, without the marks."""
    if figure.has_grid:
        style.faint_grid(axes)
    if figure.x.log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    for axis, scale in ((axes.xaxis, figure.x), (axes.yaxis, figure.y)):
        values, labels = zip(*scale.labelled(), strict=True) if scale.labelled() else ((), ())
        axis.set_ticks(values, labels)
    axes.set(xlim=(figure.x.low, figure.x.high), ylim=(figure.y.low, figure.y.high))
    if figure.square:
        for side in ("left", "bottom"):
            axes.spines[side].set_position(("outward", 3))
    axes.tick_params(labelsize=look.tick)
    if labels_are_turned(figure.x, axes.get_window_extent().width):
        axes.tick_params(axis="x", rotation=TURN)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    axes.set_xlabel(figure.x.name, fontsize=look.axis, color=palette.INK)
    axes.set_ylabel(figure.y.name, fontsize=look.axis, color=palette.INK)


def _look_of(mark: Mark) -> Hashable:
    """Return a key that is equal for marks that one artist can draw."""
    if isinstance(mark, Dot):
        return mark.colour, mark.opacity, mark.hollow, mark.name
    return mark.colour if isinstance(mark, Bar) else id(mark)


def _mark(axes: Axes, figure: Description, marks: Sequence[Mark], look: Look, order: float, name: str) -> None:
    """Draw a mark, or several dots or bars of one look; marks at an end of an axis are drawn whole."""
    mark = marks[0]
    match mark:
        case Line():
            dash, width = _DASHES[mark.dash], look.unit * mark.width
            axes.plot(
                mark.x,
                mark.y,
                color=mark.colour,
                linewidth=width,
                linestyle=dash,
                zorder=order,
                label=name,
                clip_on=False,
            )
        case Area():
            axes.fill_between(
                mark.x, mark.low, mark.high, color=mark.colour, alpha=0.18, linewidth=0, zorder=order, clip_on=False
            )
        case Bar():
            corners = [
                [(bar.left, 0), (bar.left + bar.width, 0), (bar.left + bar.width, bar.height), (bar.left, bar.height)]
                for bar in marks
                if isinstance(bar, Bar)
            ]
            bars = PolyCollection(corners, color=mark.colour, alpha=0.45, linewidth=0, zorder=order, clip_on=False)
            axes.add_collection(bars, autolim=False)
        case Dot():
            x, up, radius = zip(*((dot.x, dot.y, dot.radius) for dot in marks if isinstance(dot, Dot)), strict=True)
            areas = np.pi * (look.unit * _DOT * np.asarray(radius)) ** 2
            dots = CircleCollection(
                areas.tolist(),
                offsets=np.stack([x, up], -1),
                offset_transform=axes.transData,
                facecolor="white" if mark.hollow else mark.colour,
                edgecolor=mark.colour,
                linewidth=0.9 if mark.hollow else 0,
                alpha=mark.opacity,
                zorder=order,
                label=name,
                clip_on=False,
            )
            dots.set_transform(IdentityTransform())
            axes.add_collection(dots, autolim=False)
        case Cross():
            foot = figure.y.low + _FOOT * (figure.y.high - figure.y.low)
            axes.plot(
                [mark.x],
                [foot],
                color=palette.INK,
                marker="x",
                markersize=_CROSS * look.unit,
                linestyle="none",
                zorder=order,
                label=name,
                clip_on=False,
            )
        case Label():
            across = figure.x.share(mark.x)
            side = "left" if across < 0.25 else "right" if across > 0.75 else "center"
            axes.annotate(
                mark.text,
                (mark.x, mark.y),
                (0, look.unit * mark.up),
                textcoords="offset points",
                ha=side,
                fontsize=look.label,
                color=palette.INK,
                zorder=order,
                annotation_clip=False,
            )
        case Cell():
            _cell(axes, mark, look, order)
        case _:
            assert_never(mark)


def _cell(axes: Axes, cell: Cell, look: Look, order: float) -> None:
    """Draw a rectangle, and its text in its middle or beside it."""
    right, top = cell.left + cell.width, cell.low + cell.height
    corners = [(cell.left, cell.low), (right, cell.low), (right, top), (cell.left, top)]
    axes.add_collection(PolyCollection([corners], color=cell.colour, linewidth=0, zorder=order), autolim=False)
    x = right if cell.beside else cell.left + cell.width / 2
    axes.annotate(
        cell.words,
        (x, cell.low + cell.height / 2),
        (4 if cell.beside else 0, 0),
        textcoords="offset points",
        ha="left" if cell.beside else "center",
        va="center",
        fontsize=look.label,
        color=palette.INK if cell.beside else palette.ink_on(cell.colour),
        zorder=order,
        annotation_clip=False,
    )
