"""Pictures with a common frame: title, axes and ticks are drawn once, and what a trial adds is drawn over a copy.

A study draws the same few pictures for each of its trials, and Matplotlib spends most of its time on what they share.
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


class Plate:
    """A figure that is finished but for what varies.

    Args:
        figure: Not to be changed any more.
        axes: Those of its axes that pictures draw into; their limits stay.
    """

    def __init__(self, figure: Figure, *axes: Axes) -> None:
        self.figure, self.axes = figure, axes
        canvas: Any = FigureCanvasAgg
        self._canvas = canvas(figure)  # its methods have no types
        self._canvas.draw()
        self._frame = self._canvas.copy_from_bbox(figure.bbox)

    def rgb(self, artists: Iterable[Artist]) -> npt.NDArray[np.uint8]:
        """Draw artists over the frame. Returns a new array of shape (height, width, 3)."""
        self._canvas.restore_region(self._frame)
        renderer = self._canvas.get_renderer()
        for artist in artists:
            artist.draw(renderer)
        drawn: npt.NDArray[np.uint8] = np.asarray(self._canvas.buffer_rgba())[:, :, :3].copy()
        return drawn


@dataclass(frozen=True)
class Panel:
    """One picture: a plate, and what is drawn over it."""

    plate: Plate
    artists: Sequence[Artist]

    def rgb(self) -> npt.NDArray[np.uint8]:
        """Its pixels. Shape (height, width, 3)."""
        return self.plate.rgb(self.artists)


class Pasted(Artist):
    """Pixels put into a picture as they are; axes around them would only cost ticks, limits and a resampling.

    Args:
        pixels: RGBA. Shape (height, width, 4).
        x: Where their left edge lies, in pixels from the picture's left edge.
        y: Where their lower edge lies, in pixels from the picture's lower edge.
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
    """A line in the coordinates of the data."""
    return _placed(Line2D(np.asarray(x), np.asarray(y), **look), axes, axes.transData)


def band(axes: Axes, x: Numbers, low: Numbers, high: Numbers, **look: Any) -> Collection:
    """What lies between two curves."""
    return _placed(FillBetweenPolyCollection("x", x, low, high, **look), axes, axes.transData)


def boxes(axes: Axes, left: Numbers, bottom: Numbers, width: float, height: Numbers, **look: Any) -> Collection:
    """Rectangles side by side: bars, or the cells of a matrix."""
    x, y, up = (np.asarray(values, float) for values in (left, bottom, height))
    corners = np.stack([np.stack([x + width * a, y + up * b], -1) for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))], 1)
    return _placed(PolyCollection(list(corners), **look), axes, axes.transData)


def discs(axes: Axes, x: Numbers, y: Numbers, areas: Numbers, **look: Any) -> Collection:
    """Filled circles; areas in square points."""
    sizes = np.asarray(areas, float)
    circles = CircleCollection(sizes, offsets=np.stack([x, y], -1), offset_transform=axes.transData, **look)
    return _placed(circles, axes, IdentityTransform())


def words(axes: Axes, x: float, y: float, text: str, of_axes: bool = False, **look: Any) -> Text:
    """Text at a point of the data, or with `of_axes` at a share of the axes' width and height."""
    return _placed(Text(x, y, text, **look), axes, axes.transAxes if of_axes else axes.transData, clipped=False)


def _placed(artist: _Artist, axes: Axes, transform: Transform, clipped: bool = True) -> _Artist:
    """Let an artist know where it is drawn, without the axes knowing of it."""
    artist.set_figure(axes.figure)
    artist.set_transform(transform)
    if clipped:
        artist.set_clip_path(axes.patch)
    return artist
