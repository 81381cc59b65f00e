"""Figures that share a frame of title, axes and ticks, which is drawn only once.

A study draws the same few figures for each trial, and Matplotlib spends most of the time on the frame. A template
therefore keeps the drawn frame, and draws the data of each trial over a copy of the frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import CircleCollection, Collection, FillBetweenPolyCollection, PolyCollection
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import IdentityTransform, ScaledTranslation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

Numbers = npt.ArrayLike
_Artist = TypeVar("_Artist", bound=Artist)


class Template:
    """The drawn frame of a figure, without data.

    Args:
        figure: Figure, which must not change afterwards.
        *axes: Axes for the data, whose limits must not change afterwards.
    """

    def __init__(self, figure: Figure, *axes: Axes) -> None:
        self.figure, self.axes = figure, axes
        canvas: Any = FigureCanvasAgg
        self._canvas = canvas(figure)  # Any, because the methods have no types
        self._canvas.draw()
        self._frame = self._canvas.copy_from_bbox(figure.bbox)

    def rgb(self, artists: Iterable[Artist]) -> npt.NDArray[np.uint8]:
        """Draw artists over a copy of the frame, and return the RGB pixels. Shape (height, width, 3)."""
        self._canvas.restore_region(self._frame)
        renderer = self._canvas.get_renderer()
        for artist in artists:
            artist.draw(renderer)
        drawn: npt.NDArray[np.uint8] = np.asarray(self._canvas.buffer_rgba())[:, :, :3].copy()
        return drawn


@dataclass(frozen=True)
class Panel:
    """A complete figure: a template, and the artists drawn over its frame."""

    template: Template
    artists: Sequence[Artist]

    def rgb(self) -> npt.NDArray[np.uint8]:
        """Return the RGB pixels of the figure. Shape (height, width, 3)."""
        return self.template.rgb(self.artists)


class Pasted(Artist):
    """An artist that copies pixels into a figure without axes, and therefore without resampling.

    Args:
        pixels: RGBA pixels. Shape (height, width, 4).
        x: Distance from the left edge of the figure, in pixels.
        y: Distance from the lower edge of the figure, in pixels.
    """

    def __init__(self, pixels: npt.NDArray[np.uint8], x: int, y: int) -> None:
        super().__init__()
        self._upside_down = np.ascontiguousarray(pixels[::-1])  # renderers expect the lowest row first
        self._place = (x, y)

    def draw(self, renderer: Any) -> None:
        """Copy the pixels to a renderer."""
        context = renderer.new_gc()
        renderer.draw_image(context, *self._place, self._upside_down)
        context.restore()


def line(axes: Axes, x: Numbers, y: Numbers, **look: Any) -> Line2D:
    """Return an artist for a line in data coordinates."""
    return _placed(Line2D(np.asarray(x), np.asarray(y), **look), axes, axes.transData)


def band(axes: Axes, x: Numbers, low: Numbers, high: Numbers, **look: Any) -> Collection:
    """Return an artist for the area between two curves."""
    curves = (np.asarray(values, float) for values in (x, low, high))
    return _placed(FillBetweenPolyCollection("x", *curves, **look), axes, axes.transData)


def boxes(axes: Axes, left: Numbers, bottom: Numbers, width: float, height: Numbers, **look: Any) -> Collection:
    """Return an artist for rectangles, such as bars or the cells of a matrix."""
    x, y, up = (np.asarray(values, float) for values in (left, bottom, height))
    corners = np.stack([np.stack([x + width * a, y + up * b], -1) for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))], 1)
    return _placed(PolyCollection(list(corners), **look), axes, axes.transData)


def discs(axes: Axes, x: Numbers, y: Numbers, areas: Numbers, **look: Any) -> Collection:
    """Return an artist for filled circles, with areas in square points."""
    sizes = np.asarray(areas, float)
    circles = CircleCollection(sizes, offsets=np.stack([x, y], -1), offset_transform=axes.transData, **look)
    return _placed(circles, axes, IdentityTransform())


def words(axes: Axes, x: float, y: float, text: str, of_axes: bool = False, up: float = 0.0, **look: Any) -> Text:
    """Return an artist for text at a point, `up` points above it.

    The point is in data coordinates, or in axes coordinates if `of_axes` is True.
    """
    transform = axes.transAxes if of_axes else axes.transData
    figure = axes.get_figure(root=True)
    if up and figure is not None:
        transform = transform + ScaledTranslation(0, up / 72, figure.dpi_scale_trans)
    return _placed(Text(x, y, text, **look), axes, transform, clipped=False)


def _placed(artist: _Artist, axes: Axes, transform: Transform, clipped: bool = True) -> _Artist:
    """Set figure, transform and clipping of an artist without adding the artist to the axes; return the artist."""
    artist.set_figure(axes.figure)
    artist.set_transform(transform)
    if clipped:
        artist.set_clip_path(axes.patch)
    return artist
