"""Figures with a common frame: title, axes and ticks are drawn once, and the data of a trial over a copy.

A study draws the same few figures for each of its trials, and Matplotlib spends most of its time on the frame.
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
from matplotlib.transforms import IdentityTransform

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

Numbers = npt.ArrayLike
_Artist = TypeVar("_Artist", bound=Artist)


class Template:
    """A figure that is complete except for the data.

    Args:
        figure: Figure that does not change any more.
        axes: Axes that data are drawn into; their limits do not change.
    """

    def __init__(self, figure: Figure, *axes: Axes) -> None:
        self.figure, self.axes = figure, axes
        canvas: Any = FigureCanvasAgg
        self._canvas = canvas(figure)  # its methods have no types
        self._canvas.draw()
        self._frame = self._canvas.copy_from_bbox(figure.bbox)

    def rgb(self, artists: Iterable[Artist]) -> npt.NDArray[np.uint8]:
        """Draw artists over the frame and return the pixels. Shape (height, width, 3)."""
        self._canvas.restore_region(self._frame)
        renderer = self._canvas.get_renderer()
        for artist in artists:
            artist.draw(renderer)
        drawn: npt.NDArray[np.uint8] = np.asarray(self._canvas.buffer_rgba())[:, :, :3].copy()
        return drawn


@dataclass(frozen=True)
class Panel:
    """A figure: a template, and the artists drawn over it."""

    template: Template
    artists: Sequence[Artist]

    def rgb(self) -> npt.NDArray[np.uint8]:
        """Return the pixels. Shape (height, width, 3)."""
        return self.template.rgb(self.artists)


class Pasted(Artist):
    """Pixels copied into a figure without axes, which would only add ticks, limits and resampling.

    Args:
        pixels: RGBA. Shape (height, width, 4).
        x: Distance of their left edge from the left edge of the figure, in pixels.
        y: Distance of their lower edge from the lower edge of the figure, in pixels.
    """

    def __init__(self, pixels: npt.NDArray[np.uint8], x: int, y: int) -> None:
        super().__init__()
        self._upside_down = np.ascontiguousarray(pixels[::-1])  # as renderers want it
        self._place = (x, y)

    def draw(self, renderer: Any) -> None:
        """Copy the pixels."""
        context = renderer.new_gc()
        renderer.draw_image(context, *self._place, self._upside_down)
        context.restore()


def line(axes: Axes, x: Numbers, y: Numbers, **look: Any) -> Line2D:
    """Return a line in data coordinates."""
    return _placed(Line2D(np.asarray(x), np.asarray(y), **look), axes, axes.transData)


def band(axes: Axes, x: Numbers, low: Numbers, high: Numbers, **look: Any) -> Collection:
    """Return the area between two curves."""
    return _placed(FillBetweenPolyCollection("x", x, low, high, **look), axes, axes.transData)


def boxes(axes: Axes, left: Numbers, bottom: Numbers, width: float, height: Numbers, **look: Any) -> Collection:
    """Return rectangles: bars, or the cells of a matrix."""
    x, y, up = (np.asarray(values, float) for values in (left, bottom, height))
    corners = np.stack([np.stack([x + width * a, y + up * b], -1) for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))], 1)
    return _placed(PolyCollection(list(corners), **look), axes, axes.transData)


def discs(axes: Axes, x: Numbers, y: Numbers, areas: Numbers, **look: Any) -> Collection:
    """Return filled circles; areas in square points."""
    sizes = np.asarray(areas, float)
    circles = CircleCollection(sizes, offsets=np.stack([x, y], -1), offset_transform=axes.transData, **look)
    return _placed(circles, axes, IdentityTransform())


def words(axes: Axes, x: float, y: float, text: str, of_axes: bool = False, **look: Any) -> Text:
    """Return text at a point in data coordinates, or with `of_axes` in axes coordinates."""
    return _placed(Text(x, y, text, **look), axes, axes.transAxes if of_axes else axes.transData, clipped=False)


def _placed(artist: _Artist, axes: Axes, transform: Transform, clipped: bool = True) -> _Artist:
    """Set figure, transform and clipping of an artist without adding it to the axes."""
    artist.set_figure(axes.figure)
    artist.set_transform(transform)
    if clipped:
        artist.set_clip_path(axes.patch)
    return artist
