"""Descriptions of figures as axes and marks, independent of the drawing library.

`svg_charts.to_svg` renders a description as inline SVG, `report_figures.to_matplotlib` as a Matplotlib figure.
Lengths and widths are in units of the SVG chart, which is 360 units wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from bhsearch.reporting.figures.style import BLUE, GREY, INK, ORANGE, VERMILLION
from bhsearch.states import FAILED

if TYPE_CHECKING:
    from bhsearch.evaluation.curves import Band
    from bhsearch.reporting.report_data import TrialRow
    from bhsearch.reporting.report_numbers import Points

UNIT_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
DASHED, DOTTED = "dashed", "dotted"


@dataclass(frozen=True)
class Axis:
    """One axis of a figure.

    Attributes:
        name: Label of the axis.
        low, high: Ends of the range.
        log: Whether the axis is logarithmic.
        ticks: Positions of the ticks; if empty, they are chosen automatically.
    """

    name: str
    low: float
    high: float
    log: bool = False
    ticks: Sequence[float] = ()

    def share(self, value: float) -> float:
        """Return the position of a value on the axis, 0 at the low end and 1 at the high end."""
        low, high, value = (float(np.log(v)) if self.log else v for v in (self.low, self.high, value))
        return 0.5 if high == low else (value - low) / (high - low)

    def marks(self) -> list[float]:
        """Return the positions of the ticks within the range."""
        return [v for v in (self.ticks or nice_ticks(self.low, self.high, self.log)) if self.low <= v <= self.high]


def nice_ticks(low: float, high: float, log: bool = False) -> list[float]:
    """Return about four round numbers in a range, as tick positions."""
    if log:
        powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [float(f * 10.0**p) for p in powers for f in (1, 2, 5) if low <= f * 10.0**p <= high]
        return ticks if len(ticks) <= 5 else ticks[:: -(-len(ticks) // 5)]
    raw = (high - low) / 4 or 1.0
    unit = 10.0 ** np.floor(np.log10(raw))
    step = float(next(unit * f for f in (1, 2, 2.5, 5, 10) if unit * f >= raw))
    return [float(round(k * step, 10)) for k in range(int(np.ceil(low / step - 1e-9)), int(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Line:
    """A line through points.

    Attributes:
        x, y: Points. Same length.
        colour: CSS colour.
        width: Line width.
        dash: `DASHED`, `DOTTED` or empty for a solid line.
    """

    x: Sequence[float]
    y: Sequence[float]
    colour: str
    width: float
    dash: str = ""


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
class Dot:
    """A point.

    Attributes:
        x, y: Position.
        colour: CSS colour.
        radius: Radius.
        title: Text shown on hover.
        opacity: 0 to 1.
        hollow: Whether only the outline is drawn.
    """

    x: float
    y: float
    colour: str
    radius: float = 4.0
    title: str = ""
    opacity: float = 0.85
    hollow: bool = False


@dataclass(frozen=True)
class Cross:
    """A cross at the lower edge of the figure, for a trial without a score.

    Attributes:
        x: Position.
        title: Text shown on hover.
    """

    x: float
    title: str = ""


@dataclass(frozen=True)
class Label:
    """Text above a point, kept inside the figure.

    Attributes:
        x, y: Position of the point.
        text: Text.
        up: Distance from the point.
    """

    x: float
    y: float
    text: str
    up: float = 8.0


Mark = Line | Area | Dot | Cross | Label


@dataclass(frozen=True)
class Description:
    """A figure: two axes and the marks between them, in drawing order.

    Attributes:
        x, y: Axes.
        marks: Marks, the first one at the back.
        square: Whether both axes have the same length.
    """

    x: Axis
    y: Axis
    marks: Sequence[Mark]
    square: bool = False


def roc(band: Band) -> Description:
    """Describe the mean ROC curve over folds with its confidence band, starting at the origin.

    Args:
        band: Curve and band from `roc_band`.
    """
    x, mean, low, high = ([0.0, *values.tolist()] for values in (band.x, band.mean, band.low, band.high))
    area = [Area(x, low, high, BLUE)] if band.has_interval else []
    return Description(
        Axis("false positive rate (1 − specificity)", 0, 1, ticks=UNIT_TICKS),
        Axis("true positive rate (sensitivity)", 0, 1, ticks=UNIT_TICKS),
        [Line([0, 1], [0, 1], GREY, 1.2, DASHED), *area, Line(x, mean, BLUE, 2.6)],
        square=True,
    )


def calibration(points: Points) -> Description:
    """Describe observed against predicted probability with intervals.

    The area of a point is proportional to its share of the weight.

    Args:
        points: Points from `calibration_points`.
    """
    several = np.isfinite(points.low) & np.isfinite(points.high)
    intervals = [
        Line([x, x], [low, high], BLUE, 1.4)
        for x, low, high in zip(points.predicted[several], points.low[several], points.high[several], strict=True)
    ]
    dots = []
    for x, y, low, high, mass in zip(
        points.predicted, points.observed, points.low, points.high, points.mass, strict=True
    ):
        ends = f" ({low:.0%} to {high:.0%})" if np.isfinite([low, high]).all() else ""
        title = f"P {x:.2f}: {y:.0%}{ends} malignant, {mass:.0%} of the weight"
        dots.append(Dot(x, y, BLUE, 3 + 16 * float(mass) ** 0.5, title, 0.75, hollow=not ends))
    return Description(
        Axis("predicted P(malignant)", 0, 1, ticks=UNIT_TICKS),
        Axis("share that is malignant", 0, 1, ticks=UNIT_TICKS),
        [Line([0, 1], [0, 1], GREY, 1.2, DASHED), *intervals, *dots],
        square=True,
    )


def history(rows: Sequence[TrialRow]) -> Description:
    """Describe the score of every trial in order, with the best score so far and failed trials as crosses.

    Args:
        rows: All trials, ordered by number.
    """
    scores = [row.score for row in rows if row.score is not None]
    low, high = _padded([*scores, 0.5])
    x = Axis("trial", -0.5, max(len(rows) - 0.5, 0.5), ticks=_whole_numbers(len(rows)))
    best, steps = -np.inf, []
    marks: list[Mark] = []
    for place, row in enumerate(rows):
        best = max(best, row.score if row.score is not None else -np.inf)
        if np.isfinite(best):
            steps.append((float(place), best))
        if row.score is not None:
            marks.append(Dot(place, row.score, BLUE, title=f"trial {row.number}: {row.score:.3f}"))
        elif row.state == FAILED:
            marks.append(Cross(place, f"trial {row.number}: {row.reason}"))
    stairs = [point for (left, y), (right, _) in pairwise(steps) for point in ((left, y), (right, y))] + steps[-1:]
    behind = [_guessing(x), Line([left for left, _ in stairs], [y for _, y in stairs], VERMILLION, 1.8)]
    if scores:
        top = max((row for row in rows if row.score is not None), key=lambda row: row.score or 0.0)
        place, score = rows.index(top), top.score or 0.0
        marks.append(Dot(place, score, ORANGE, 5.5, f"trial {top.number}: {score:.3f}", 1.0))
        marks.append(Label(place, score, f"trial {top.number}"))
    return Description(x, Axis("AUC", low, high), [*behind, *marks])


def cost(rows: Sequence[TrialRow]) -> Description:
    """Describe score against inference time per image, with trials tied with the best in blue.

    Args:
        rows: All trials; trials without a score or a known time are not drawn, and at least one must be drawn.
    """
    timed = [row for row in rows if row.score is not None and row.milliseconds > 0]
    low, high = _padded([*(row.score for row in timed if row.score is not None), 0.5])
    milliseconds = [row.milliseconds for row in timed]
    x = Axis("milliseconds an image", min(milliseconds) / 1.5, max(milliseconds) * 1.5, log=True)
    marks: list[Mark] = [_guessing(x)]
    for row in sorted(timed, key=lambda row: row.tied):
        title = f"trial {row.number}: {row.score:.3f}, {row.milliseconds:.3g} ms an image, {row.megabytes:.3g} MB"
        marks.append(Dot(row.milliseconds, row.score or 0.0, BLUE if row.tied else GREY, 5, title, 0.8))
    cheapest = cheapest_tied(timed)
    if cheapest is not None:
        at = (cheapest.milliseconds, cheapest.score or 0.0)
        marks.append(Dot(*at, ORANGE, 6, f"trial {cheapest.number}", 1))
        marks.append(Label(*at, f"cheapest: trial {cheapest.number}", 10))
    return Description(x, Axis("AUC", low, high), marks)


def cheapest_tied(rows: Sequence[TrialRow]) -> TrialRow | None:
    """Return the trial with the shortest inference time among the trials tied with the best.

    Of equally fast trials, the trial with the highest score is returned; None if no tied trial has a known time.
    """
    timed = [row for row in rows if row.tied and row.milliseconds > 0]
    return min(timed, key=lambda row: (row.milliseconds, -(row.score or 0.0)), default=None)


def _guessing(x: Axis) -> Line:
    return Line([x.low, x.high], [0.5, 0.5], INK, 1.4, DOTTED)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a scale for values, with a margin on both sides."""
    low, high = min(values), max(values)
    room = 0.12 * max(high - low, 0.05)
    return max(low - room, 0.0), min(high + room, 1.02)


def _whole_numbers(n: int) -> list[float]:
    """Return at most six evenly spaced whole numbers from 0 to n - 1."""
    step = max(1, -(-n // 6))
    return [float(k) for k in range(0, n, step)]
