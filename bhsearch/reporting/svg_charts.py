"""The charts of a report, from arrays and records that other modules computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from bhsearch.reporting import svg
from bhsearch.reporting.figures.style import BLUE, GREY, INK, PALE
from bhsearch.reporting.svg import Axis, Frame
from bhsearch.states import FAILED

if TYPE_CHECKING:
    from bhsearch.evaluation.curves import Band
    from bhsearch.evaluation.subgroups import Subgroup
    from bhsearch.reporting.report_data import Measured, TrialRow
    from bhsearch.reporting.report_numbers import Points

UNIT = (0.0, 0.5, 1.0)
_ROW, _GAP = 52.0, 22.0  # height of a row of the parallel coordinates, and the room above its axis


def roc_chart(band: Band, alt: str) -> str:
    """Mean ROC over folds with its band, as a square, from (0, 0).

    Args:
        band: From `roc_band`.
        alt: What it shows, in words.
    """
    frame = Frame(
        Axis("false positive rate (1 − specificity)", 0, 1, ticks=UNIT),
        Axis("true positive rate (sensitivity)", 0, 1, ticks=UNIT),
        svg.SQUARE,
    )
    content = [frame.line([0, 1], [0, 1], GREY, 1.2, "5 4")]
    x, mean, low, high = ([0.0, *values.tolist()] for values in (band.x, band.mean, band.low, band.high))
    if np.isfinite(band.low).all():
        content.append(frame.area(x, low, high, BLUE))
    content.append(frame.line(x, mean, BLUE, 2.6))
    return frame.drawn(content, alt)


def calibration_chart(points: Points, alt: str) -> str:
    """Share of malignant against predicted probability, with intervals; a point's area is its share of the weight.

    Args:
        points: From `calibration_points`.
        alt: What it shows, in words.
    """
    frame = Frame(
        Axis("predicted P(malignant)", 0, 1, ticks=UNIT), Axis("share that is malignant", 0, 1, ticks=UNIT), svg.SQUARE
    )
    content = [frame.line([0, 1], [0, 1], GREY, 1.2, "5 4")]
    for x, low, high in zip(points.predicted, points.low, points.high, strict=True):
        if np.isfinite([low, high]).all():
            content.append(frame.line([x, x], [low, high], BLUE, 1.4))
    for x, y, low, high, mass in zip(
        points.predicted, points.observed, points.low, points.high, points.mass, strict=True
    ):
        ends = f" ({low:.0%} to {high:.0%})" if np.isfinite([low, high]).all() else ""
        words = f"P {x:.2f}: {y:.0%}{ends} malignant, {mass:.0%} of the weight"
        radius = 3 + 16 * float(mass) ** 0.5
        content.append(frame.dot(x, y, BLUE, radius, words, 0.75) if ends else frame.ring(x, y, BLUE, radius, words))
    return frame.drawn(content, alt)


def history_chart(rows: Sequence[TrialRow], alt: str) -> str:
    """Score of every trial in turn, the best so far, and failed trials as crosses at the foot."""
    scores = [row.score for row in rows if row.score is not None]
    low, high = _around([*scores, 0.5])
    frame = Frame(Axis("trial", -0.5, max(len(rows) - 0.5, 0.5), ticks=_whole(len(rows))), Axis("AUC", low, high))
    content = [_chance(frame)]
    best, steps = -np.inf, []
    for place, row in enumerate(rows):
        best = max(best, row.score if row.score is not None else -np.inf)
        if np.isfinite(best):
            steps.append((place, best))
    stairs = [point for (x, y), (after, _) in pairwise(steps) for point in ((x, y), (after, y))] + steps[-1:]
    content.append(frame.line([x for x, _ in stairs], [y for _, y in stairs], svg.LINE, 1.8))
    for place, row in enumerate(rows):
        if row.score is not None:
            content.append(frame.dot(place, row.score, BLUE, title=f"trial {row.number}: {row.score:.3f}"))
        elif row.state == FAILED:
            content.append(frame.cross(place, low + 0.04 * (high - low), f"trial {row.number}: {row.reason}"))
    if scores:
        top = max((row for row in rows if row.score is not None), key=lambda row: row.score or 0.0)
        place, score = rows.index(top), top.score or 0.0
        content.append(frame.dot(place, score, svg.BEST, 5.5, f"trial {top.number}: {score:.3f}", 1.0))
        content.append(frame.label(place, score, f"trial {top.number}", "middle"))
    return frame.drawn(content, alt)


def cost_chart(rows: Sequence[TrialRow], alt: str) -> str:
    """Score against milliseconds of the deployed network for an image, those tied with the best in blue."""
    timed = [row for row in rows if row.score is not None and row.milliseconds > 0]
    low, high = _around([row.score for row in timed if row.score is not None] + [0.5])
    cost = [row.milliseconds for row in timed]
    frame = Frame(Axis("milliseconds an image", min(cost) / 1.5, max(cost) * 1.5, log=True), Axis("AUC", low, high))
    content = [_chance(frame)]
    for row in sorted(timed, key=lambda row: row.tied):
        words = f"trial {row.number}: {row.score:.3f}, {row.milliseconds:.3g} ms an image, {row.megabytes:.3g} MB"
        content.append(frame.dot(row.milliseconds, row.score or 0.0, BLUE if row.tied else GREY, 5, words, 0.8))
    cheapest = cheapest_tied(timed)
    if cheapest is not None:
        x, y = cheapest.milliseconds, cheapest.score or 0.0
        content.append(frame.dot(x, y, svg.BEST, 6, f"trial {cheapest.number}", 1))
        content.append(frame.label(x, y, f"cheapest: trial {cheapest.number}", "middle", 10))
    return frame.drawn(content, alt)


def cheapest_tied(rows: Sequence[TrialRow]) -> TrialRow | None:
    """Of the trials that cannot be told from the best, the one that takes least time for an image; of equals the best.

    None where no such time is known.
    """
    timed = [row for row in rows if row.tied and row.milliseconds > 0]
    return min(timed, key=lambda row: (row.milliseconds, -(row.score or 0.0)), default=None)


def parallel_chart(rows: Sequence[TrialRow], names: Sequence[str], log: Sequence[str], alt: str) -> str:
    """Every complete trial as a line through its parameters, one above the other so that it fits a phone.

    Args:
        rows: Trials with a score are drawn; the best in orange, the others the bluer the better.
        names: Parameters, from top to bottom; the score stands above them.
        log: Those on a logarithmic scale.
        alt: What it shows, in words.
    """
    done = sorted((row for row in rows if row.score is not None), key=lambda row: row.score or 0.0)
    scores = [row.score or 0.0 for row in done]
    scales = [_Scale("AUC", scores, False), *(_Scale(n, [row.params.get(n) for row in done], n in log) for n in names)]
    heights = [_GAP + k * _ROW + 6 for k in range(len(scales))]
    content = []
    for place, row in enumerate(done):
        points = " ".join(f"{scale.across(place):.1f},{down:.1f}" for scale, down in zip(scales, heights, strict=True))
        best = place == len(done) - 1
        colour = svg.BEST if best else svg.shade(place / max(len(done) - 1, 1))
        content.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{3 if best else 1.3}" '
            f'stroke-opacity="{1 if best else 0.75}"><title>{escape(f"trial {row.number}: {row.score:.3f}")}</title>'
            "</polyline>"
        )
    content += [scale.drawn(down) for scale, down in zip(scales, heights, strict=True)]
    return svg.chart("".join(content), heights[-1] + 34, alt)


class _Scale:
    """One row of the parallel coordinates.

    Args:
        name: Of the parameter.
        values: Of every trial.
        log: Whether its scale is logarithmic.
    """

    _LEFT, _RIGHT = 16.0, svg.WIDTH - 16.0

    def __init__(self, name: str, values: Sequence[Any], log: bool) -> None:
        self._name, self._values = name, values
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        self._axis = None
        self._choices: list[str] = []
        if len(numbers) == len(values) and len(set(numbers)) > 3:
            self._axis = Axis(name, min(numbers), max(numbers), log and min(numbers) > 0)
        else:
            self._choices = [str(value) for value in sorted(set(values), key=lambda v: (isinstance(v, str), v))]

    def across(self, place: int) -> float:
        """Where a trial's line crosses."""
        if self._axis is not None:
            share = self._axis.share(float(self._values[place]))
        else:
            share = (self._choices.index(str(self._values[place])) + 0.5) / len(self._choices)
            # Lines through one choice lie beside each other; steps of the golden ratio spread them the same way always.
            share += ((place * 0.6180339887) % 1 - 0.5) * min(0.5 / len(self._choices), 0.06)
        return self._LEFT + share * (self._RIGHT - self._LEFT)

    def drawn(self, down: float) -> str:
        """The axis, its name above it and what it shows below."""
        width = self._RIGHT - self._LEFT
        parts = [
            f'<line x1="{self._LEFT}" x2="{self._RIGHT}" y1="{down}" y2="{down}" stroke="{GREY}" stroke-width="1.4"/>',
            svg.text(self._LEFT, down - 6, self._name, bold=True),
        ]
        if self._axis is not None:
            low, high = (f"{value:.3g}" for value in (self._axis.low, self._axis.high))
            parts += [
                svg.text(self._LEFT, down + 13, low, size=10),
                svg.text(self._RIGHT, down + 13, high, "end", size=10),
            ]
            return "".join(parts)
        step = width / len(self._choices)
        for k, choice in enumerate(self._choices):
            middle = self._LEFT + (k + 0.5) * step
            # Neighbours take turns in two lines, so that each has twice the room.
            line = 13 + 11 * (k % 2) * (max(map(len, self._choices)) * 5.4 > step)
            words = svg.shortened(choice, 2 * step - 6, 10)
            half = len(words) * 2.7
            middle = min(max(middle, self._LEFT + half - 12), self._RIGHT - half + 12)
            parts.append(f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{down}" y2="{down + 4}" stroke="{PALE}"/>')
            parts.append(svg.text(middle, down + line, words, "middle", size=10))
        return "".join(parts)


def interval_rows(
    rows: Sequence[tuple[str, float, float, float, str, str]], low: float, high: float, chance: float = 0.5
) -> str:
    """Values with their intervals, a row each, on one scale.

    Args:
        rows: Name, value, lower end, upper end, kind (a class of CSS), and what is said of it. An end that is not a
            number leaves the interval out; so does the value.
        low: Left end of the scale.
        high: Right end.
        chance: Where guessing lies.
    """
    axis = Axis("", low, high)
    guess = f'<u style="left:{100 * axis.share(chance):.1f}%"></u>'
    out = []
    for name, value, lower, upper, kind, said in rows:
        bar = ""
        if np.isfinite([lower, upper]).all():
            left, right = (100 * min(max(axis.share(end), 0.0), 1.0) for end in (lower, upper))
            bar = f'<i style="left:{left:.1f}%;width:{right - left:.1f}%"></i>'
        dot = f'<b style="left:{100 * axis.share(value):.1f}%"></b>' if np.isfinite(value) else ""
        words = f"{value:.3f}" if np.isfinite(value) else "—"
        ends = f"{lower:.3f} to {upper:.3f}" if bar else "no interval"
        under = f"<small>{ends}</small>" if dot else ""
        alt = f"{name}: {words}, {ends}" if dot else f"{name}: {said}"
        out.append(
            f'<div class="row {kind}"><span class="name">{escape(name)}<small>{escape(said)}</small></span>'
            f'<span class="value">{words}{under}</span>'
            f'<span class="track" role="img" aria-label="{escape(alt)}">{guess}{bar}{dot}</span></div>'
        )
    marks = "".join(
        f'<span style="left:{100 * axis.share(value):.1f}%">{value:g}</span>' for value in svg.nice_ticks(low, high)
    )
    return f'<div class="rows">{"".join(out)}<div class="row scale"><span class="track">{marks}</span></div></div>'


def part_rows(parts: Sequence[tuple[str, Subgroup, Measured, Measured | None]]) -> str:
    """Share of right images of each part: the mean over its cases as a bar, its interval as a line, a case as a dot.

    Args:
        parts: What each is called, itself, its share with the interval, and its AUC if it has one.
    """
    out = []
    for name, part, right, auc in parts:
        dots = "".join(f'<b style="left:{100 * share:.1f}%"></b>' for share in part.by_case)
        kind = "both classes" if part.kind == "both" else part.kind
        cases, images = (plural(part.n_cases, "case"), plural(part.n_images, "image"))
        said = f"{kind}, {cases}, {images}" + (f", AUC {with_ends(auc)}" if auc is not None else "")
        ends = f"{right.low:.0%} to {right.high:.0%}"
        alt = f"{name}: {right.value:.0%} right ({ends}), {said}"
        whisker = f'<s style="left:{100 * right.low:.1f}%;width:{100 * (right.high - right.low):.1f}%"></s>'
        out.append(
            f'<div class="row part"><span class="name">{escape(name)}<small>{escape(said)}</small></span>'
            f'<span class="value">{right.value:.0%}<small>{ends}</small></span>'
            f'<span class="track" role="img" aria-label="{escape(alt)}">'
            f'<i style="left:0;width:{100 * right.value:.1f}%"></i>{whisker}{dots}</span></div>'
        )
    marks = "".join(f'<span style="left:{share}%">{share} %</span>' for share in (0, 50, 100))
    return f'<div class="rows">{"".join(out)}<div class="row scale"><span class="track">{marks}</span></div></div>'


def bar_rows(shares: Mapping[str, tuple[float, float]]) -> str:
    """Shares as bars with their spread as lines, in the order given.

    Args:
        shares: Share and spread by name.
    """
    most = max([*(share + spread for share, spread in shares.values()), 1e-9])
    out = []
    for name, (share, spread) in shares.items():
        left, right = 100 * max(share - spread, 0.0) / most, 100 * (share + spread) / most
        said = f"{share:.0%} ± {spread:.0%}"
        out.append(
            f'<div class="row bar"><span class="name">{escape(name)}</span><span class="value">{said}</span>'
            f'<span class="track" role="img" aria-label="{escape(name)}: {said}">'
            f'<i style="left:0;width:{100 * share / most:.1f}%"></i>'
            f'<s style="left:{left:.1f}%;width:{right - left:.1f}%"></s></span></div>'
        )
    return f'<div class="rows">{"".join(out)}</div>'


def plural(count: int, noun: str) -> str:
    """Such as `1 case` or `2 cases`."""
    return f"{count:,} {noun}" + ("s" if count != 1 else "")


def split_ends(found: Measured, digits: int = 2) -> tuple[str, str]:
    """A number and its interval, each for a column of its own."""
    value = f"{found.value:.{digits}f}" if np.isfinite(found.value) else "—"
    if not np.isfinite([found.low, found.high]).all():
        return value, "no interval"
    return value, f"{found.low:.{digits}f} to {found.high:.{digits}f}"


def with_ends(found: Measured, digits: int = 2) -> str:
    """A number with its interval, such as `0.85 (0.71 to 0.94)`."""
    value, ends = split_ends(found, digits)
    return f"{value} ({ends})"


def _chance(frame: Frame) -> str:
    return frame.line([frame.x.low, frame.x.high], [0.5, 0.5], INK, 1.4, "2 4")


def _around(values: Sequence[float]) -> tuple[float, float]:
    """Ends of a scale with a little room."""
    low, high = min(values), max(values)
    room = 0.12 * max(high - low, 0.05)
    return max(low - room, 0.0), min(high + room, 1.02)


def _whole(n: int) -> list[float]:
    """About five whole numbers from 0 to n - 1."""
    step = max(1, -(-n // 6))
    return [float(k) for k in range(0, n, step)]
