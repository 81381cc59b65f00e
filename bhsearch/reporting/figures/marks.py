"""Axes and marks: the parts of a figure's description, independent of the drawing library.

Lengths and widths are in units of the SVG files, which are CSS pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import NamedTuple

UNIT_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
DASHED, DOTTED = "dashed", "dotted"
TURN = 60.0  # degrees, of labels that would cover each other


class Box(NamedTuple):
    """A rectangle in units, from the upper left corner of the picture."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Axis:
    """One axis of a figure.

    Attributes:
        name: Label of the axis.
        low, high: Ends of the range; `low` is left or at the bottom, and may be the greater of the two.
        log: Whether the axis is logarithmic.
        ticks: Positions of the ticks; if empty, they are chosen automatically.
        labels: Labels of `ticks`, such as the names of choices; empty for the numbers themselves.
    """

    name: str
    low: float
    high: float
    log: bool = False
    ticks: Sequence[float] = ()
    labels: Sequence[str] = ()

    def share(self, value: float) -> float:
        """Return the position of a value on the axis, 0 at the low end and 1 at the high end."""
        low, high, value = (log10(v) if self.log else v for v in (self.low, self.high, value))
        return 0.5 if high == low else (value - low) / (high - low)

    def marks(self) -> list[float]:
        """Return the positions of the ticks within the range."""
        return [value for value, _ in self.labelled()]

    def labelled(self) -> list[tuple[float, str]]:
        """Return the positions and the labels of the ticks within the range."""
        low, high = sorted((self.low, self.high))
        ticks = self.ticks or nice_ticks(low, high, self.log)
        labels = self.labels or tick_labels(ticks, self.log)
        return [(value, label) for value, label in zip(ticks, labels, strict=True) if low <= value <= high]


def nice_ticks(low: float, high: float, log: bool = False) -> list[float]:
    """Return about four round numbers in a range, as tick positions."""
    if log:
        powers = range(floor(log10(low)), ceil(log10(high)) + 1)
        fine, coarse, tens = (
            [tick for power in powers for factor in factors if low <= (tick := float(f"{factor}e{power}")) <= high]
            for factors in ((1, 2, 5), (1, 3), (1,))
        )
        if len(fine) <= 5:
            return fine
        return coarse if len(tens) < 3 else tens[:: -(-len(tens) // 6)]
    raw = (high - low) / 4 or 1.0
    unit = 10.0 ** floor(log10(raw))
    factors = (1, 2, 2.5, 5, 10)
    chosen = next(k for k, factor in enumerate(factors) if unit * factor >= raw * (1 - 1e-9))
    ticks = _multiples(low, high, unit * factors[chosen])
    return ticks if len(ticks) > 2 or chosen == 0 else _multiples(low, high, unit * factors[chosen - 1])


def _multiples(low: float, high: float, step: float) -> list[float]:
    # Twelve digits hide the rounding error of a multiple of a decimal fraction.
    return [float(f"{k * step:.12g}") for k in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def whole_ticks(low: int, high: int, most: int = 6) -> list[float]:
    """Return at most `most` evenly spaced whole numbers from `low` to `high`, as tick positions."""
    steps = (factor * 10**power for power in range(10) for factor in (1, 2, 5))
    step = next(step for step in steps if high // step - -(-low // step) < most)
    return [float(k * step) for k in range(-(-low // step), high // step + 1)]


def tick_labels(ticks: Sequence[float], log: bool = False) -> list[str]:
    """Return the labels of ticks; those of a linear axis have the same number of decimals."""
    plain = [f"{value:.10g}" for value in ticks]
    if log or any("e" in label for label in plain):
        return [label.replace("-", "\u2212") for label in plain]
    n_decimals = max((len(label.partition(".")[2]) for label in plain), default=0)
    return [f"{value:.{n_decimals}f}".replace("-", "\u2212") for value in ticks]


@dataclass(frozen=True)
class Line:
    """A line through points.

    Attributes:
        x, y: Points. Same length.
        colour: CSS colour.
        width: Line width.
        dash: `DASHED`, `DOTTED` or empty for a solid line.
        name: Entry of a legend; may be empty.
    """

    x: Sequence[float]
    y: Sequence[float]
    colour: str
    width: float
    dash: str = ""
    name: str = ""


@dataclass(frozen=True)
class Area:
    """The area between two lines.

    Attributes:
        x, low, high: Points of both lines. Same length.
        colour: CSS colour.
    """

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    colour: str


@dataclass(frozen=True)
class Bar:
    """A bar from 0 upwards.

    Attributes:
        left: Left edge.
        width, height: Size; the bars of a figure have one width.
        colour: CSS colour.
    """

    left: float
    width: float
    height: float
    colour: str


@dataclass(frozen=True)
class Dot:
    """A point.

    Attributes:
        x, y: Position.
        colour: CSS colour.
        radius: Radius.
        title: Text shown on hover.
        opacity: 0 to 1.
        hollow: Whether only the outline is drawn.
        name: Entry of a legend, shared by the dots of a series; may be empty.
    """

    x: float
    y: float
    colour: str
    radius: float = 4.0
    title: str = ""
    opacity: float = 0.85
    hollow: bool = False
    name: str = ""


@dataclass(frozen=True)
class Cross:
    """A cross at the lower edge of the figure, for a trial without a score.

    Attributes:
        x: Position.
        title: Text shown on hover.
        name: Entry of a legend; may be empty.
    """

    x: float
    title: str = ""
    name: str = ""


@dataclass(frozen=True)
class Label:
    """Text above or below a point, kept inside the figure.

    Attributes:
        x, y: Position of the point.
        text: Text.
        up: Distance of the text's baseline above the point; negative for text below.
    """

    x: float
    y: float
    text: str
    up: float = 8.0


@dataclass(frozen=True)
class Cell:
    """A rectangle with lines of text in its middle, such as a cell of a matrix or a bar with its value.

    Attributes:
        left, low: Lower left corner.
        width, height: Size.
        colour: CSS colour of the form `#RRGGBB`.
        words: Text; may be empty.
        beside: Whether the text is to the right of the rectangle instead.
    """

    left: float
    low: float
    width: float
    height: float
    colour: str
    words: str = ""
    beside: bool = False


Mark = Line | Area | Bar | Dot | Cross | Label | Cell


@dataclass(frozen=True)
class Description:
    """A figure: two axes and the marks between them, in drawing order.

    Attributes:
        x, y: Axes.
        marks: Marks, the first one at the back.
        square: Whether both axes have the same range, and the same length where the layout allows it.
        headline: Main number of the figure, in the lower right corner; may be empty.
        has_grid: Whether grid lines are drawn at the ticks.
    """

    x: Axis
    y: Axis
    marks: Sequence[Mark]
    square: bool = False
    headline: str = ""
    has_grid: bool = True
