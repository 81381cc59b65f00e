"""Charts with two axes: described figures as SVG elements within a rectangle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, radians, sin
from typing import assert_never

from bhsearch.reporting.figures.marks import (
    DASHED,
    DOTTED,
    TURN,
    Area,
    Axis,
    Bar,
    Box,
    Cell,
    Cross,
    Description,
    Dot,
    Label,
    Line,
    Mark,
)
from bhsearch.reporting.figures.palette import GREY, PALE, ink_on
from bhsearch.reporting.svg import elements
from bhsearch.reporting.svg.elements import SIZE, WIDTH
from bhsearch.reporting.svg.text_width import shortened, text_width

_FOOT = 0.04  # height of crosses, as a share of the vertical axis
DASHES = {DASHED: "5 4", DOTTED: "2 4", "": ""}
_HEADLINE, _CELL = 15.0, 14.0  # font sizes
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 12.0, 12.0, 40.0  # margins of an inline chart
_HEIGHT = 250.0
_SQUARE = WIDTH - _LEFT - _RIGHT + _TOP + _BOTTOM  # height of a chart with axes of equal length


def inline_chart(figure: Description, alt: str) -> str:
    """Return a described figure as inline SVG; the page shows the headline above it.

    Args:
        figure: Description of axes and marks.
        alt: Text alternative for screen readers.
    """
    height = _SQUARE if figure.square else _HEIGHT
    frame = Frame(figure.x, figure.y, Box(_LEFT, _TOP, WIDTH - _RIGHT, height - _BOTTOM))
    return elements.inline("".join([frame.axes(figure.has_grid), *map(frame.mark, figure.marks)]), height, alt)


def labels_are_turned(axis: Axis, width: float) -> bool:
    """Return whether the names along a horizontal axis are turned, because they would cover each other.

    Args:
        axis: The axis.
        width: Width of the chart.
    """
    return bool(axis.labels) and _collide([(axis.share(value) * width, label) for value, label in axis.labelled()])


def labels_height(axis: Axis, width: float) -> float:
    """Return the distance from a horizontal axis to the baseline of its name, below the labels.

    Args:
        axis: The axis.
        width: Width of the chart.
    """
    if not labels_are_turned(axis, width):
        return 34.0
    return 30.0 + max(text_width(label, SIZE) for _, label in axis.labelled()) * sin(radians(TURN))


def _collide(labelled: Sequence[tuple[float, str]]) -> bool:
    """Return whether horizontal labels would cover each other, from the position of the middle of each."""
    ends = sorted((x - text_width(label, SIZE) / 2, x + text_width(label, SIZE) / 2) for x, label in labelled)
    return any(first[1] + 4 > second[0] for first, second in pairwise(ends))


@dataclass(frozen=True)
class Frame:
    """A chart with two axes, which converts data to positions and renders marks as SVG.

    Attributes:
        x, y: Axes.
        box: Rectangle between the axes.
        width: Width of the picture, within which labels are kept.
    """

    x: Axis
    y: Axis
    box: Box
    width: float = WIDTH

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the position of a data point in units, from the left and from the top."""
        left, top, right, bottom = self.box
        return left + self.x.share(x) * (right - left), bottom - self.y.share(y) * (bottom - top)

    def axes(self, has_grid: bool = True, has_labels: bool = True) -> str:
        """Return axes, grid, ticks and labels.

        Args:
            has_grid: Whether grid lines are drawn at the ticks.
            has_labels: Whether the horizontal axis has labels.
        """
        left, top, right, bottom = self.box
        across = [(self.at(value, self.y.low)[0], label) for value, label in self.x.labelled()]
        down = [(self.at(self.x.low, value)[1], label) for value, label in self.y.labelled()]
        parts = []
        if has_grid:
            parts += [elements.straight(left, y, right, y, PALE) for y, _ in down]
            parts += [elements.straight(x, top, x, bottom, PALE) for x, _ in across]
            parts += [elements.straight(x, bottom, x, bottom + 4, GREY) for x, _ in across]
        if has_grid and not any(self.y.labels):
            parts.append(elements.straight(left, top, left, bottom, GREY))
        parts.append(elements.straight(left, bottom, right, bottom, GREY))
        parts += [elements.text(left - 6, y + 4, label, "end") for y, label in down]
        widest = max((text_width(label, SIZE) for _, label in down), default=0.0)
        if self.y.name:
            parts.append(self._side_name(max(left - widest - 14, SIZE)))
        if has_labels:
            parts += self._foot_labels(across)
        return "".join(parts)

    def _side_name(self, x: float) -> str:
        name = shortened(self.y.name, self.box.bottom - self.box.top + 30, SIZE)
        return elements.text(x, (self.box.top + self.box.bottom) / 2, name, "middle", turned=-90.0)

    def _foot_labels(self, labelled: Sequence[tuple[float, str]]) -> list[str]:
        """Return labels and name of the horizontal axis; names that would cover each other are turned."""
        left, _, right, bottom = self.box
        place = (left + right) / 2, bottom + labels_height(self.x, right - left)
        name = elements.text(*place, shortened(self.x.name, right - left + 20, SIZE), "middle")
        if labels_are_turned(self.x, right - left):
            return [*(elements.text(x + 4, bottom + 13, label, "end", turned=-TURN) for x, label in labelled), name]
        kept: list[tuple[float, str]] = []
        for entry in labelled:
            if not _collide([*kept[-1:], entry]):
                kept.append(entry)
        return [*(elements.text(self._inside(x, label), bottom + 17, label, "middle") for x, label in kept), name]

    def _inside(self, x: float, words: str, bold: bool = False) -> float:
        """Return the middle of text at a position, moved to keep the text inside the picture."""
        half = text_width(words, SIZE, bold) / 2 + 2
        return min(max(x, half), max(self.width - half, half))

    def headline(self, words: str) -> str:
        """Return the main number of the figure, in the lower right corner."""
        left, top, right, bottom = self.box
        place = (right - 0.02 * (right - left), bottom - 0.06 * (bottom - top))
        return elements.text(*place, words, "end", size=_HEADLINE)

    def mark(self, mark: Mark) -> str:
        """Return a mark as SVG; points that are not finite are left out."""
        match mark:
            case Dot() | Label() if not (isfinite(mark.x) and isfinite(mark.y)):
                return ""
            case Line():
                return elements.line(self._points(mark.x, mark.y), mark.colour, mark.width, DASHES[mark.dash])
            case Area():
                back = self._points(mark.x, mark.low)[::-1]
                return elements.area([*self._points(mark.x, mark.high), *back], mark.colour)
            case Bar():
                return self._rectangle(mark.left, 0.0, mark.width, mark.height, mark.colour, 0.45)
            case Dot(hollow=True):
                return elements.ring(*self.at(mark.x, mark.y), mark.radius, mark.colour, mark.title)
            case Dot():
                return elements.disc(*self.at(mark.x, mark.y), mark.radius, mark.colour, mark.title, mark.opacity)
            case Cross():
                foot = self.y.low + _FOOT * (self.y.high - self.y.low)
                return elements.cross(*self.at(mark.x, foot), mark.title)
            case Label():
                across, down = self.at(mark.x, mark.y)
                half = text_width(mark.text, SIZE, bold=True) / 2
                middle = max(self._inside(across, mark.text, bold=True), self.box.left + half + 3)
                return elements.text(middle, max(down - mark.up, 12.0), mark.text, "middle", bold=True)
            case Cell():
                return self._cell(mark)
            case _:
                assert_never(mark)

    def _points(self, xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
        """Return the positions of the points that are finite."""
        return [self.at(x, y) for x, y in zip(xs, ys, strict=True) if isfinite(x) and isfinite(y)]

    def _rectangle(self, left: float, low: float, width: float, height: float, colour: str, opacity: float) -> str:
        (x1, x2), (y1, y2) = (
            sorted(ends) for ends in zip(self.at(left, low), self.at(left + width, low + height), strict=True)
        )
        return elements.box(x1, y1, x2 - x1, y2 - y1, colour, opacity)

    def _cell(self, cell: Cell) -> str:
        drawn = self._rectangle(cell.left, cell.low, cell.width, cell.height, cell.colour, 1.0)
        middle = self.at(cell.left + cell.width / 2, cell.low + cell.height / 2)
        if cell.beside:
            end, _ = self.at(cell.left + cell.width, 0.0)
            return drawn + elements.text(end + 5, middle[1] + 4, cell.words)
        ink, lines = ink_on(cell.colour), cell.words.split("\n")
        top = middle[1] - (len(lines) - 1) * _CELL * 0.62 + 0.36 * _CELL
        return drawn + "".join(
            elements.text(middle[0], top + k * 1.24 * _CELL, words, "middle", size=_CELL, colour=ink, outlined=False)
            for k, words in enumerate(lines)
            if words
        )
