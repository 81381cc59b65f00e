"""The charts of an HTML report that only the report has: parallel coordinates, and rows with bars and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from bhsearch.reporting.figures.marks import Axis, nice_ticks
from bhsearch.reporting.figures.palette import GREY, ORANGE, PALE
from bhsearch.reporting.svg import elements
from bhsearch.reporting.svg.text_width import shortened, text_width
from bhsearch.text import plural

if TYPE_CHECKING:
    from bhsearch.evaluation.subgroups import Subgroup
    from bhsearch.reporting.report_data import Measured, TrialRow

_ROW, _GAP = 52.0, 22.0  # parallel coordinates: height of a row, and space above the first axis
_SMALL = 10.0  # font size of values


def parallel_chart(
    rows: Sequence[TrialRow], names: Sequence[str], log: Sequence[str], alt: str, score: str = "AUC"
) -> str:
    """Return parallel coordinates as SVG, with one line per complete trial and one horizontal axis per parameter.

    The axes are stacked vertically to fit the screen of a phone. The best trial is orange; the better the score of
    another trial, the deeper its blue.

    Args:
        rows: All trials; trials without a score are not drawn.
        names: Parameters from top to bottom, below the score.
        log: Parameters on a logarithmic scale.
        alt: Text alternative for screen readers.
        score: Name of the score.
    """
    done = sorted((row for row in rows if row.score is not None), key=lambda row: row.score or 0.0)
    scores = [row.score or 0.0 for row in done]
    scales = [_Scale(score, scores, False), *(_Scale(n, [row.params.get(n) for row in done], n in log) for n in names)]
    heights = [_GAP + k * _ROW + 6 for k in range(len(scales))]
    content = []
    for place, row in enumerate(done):
        points = " ".join(f"{scale.across(place):.1f},{down:.1f}" for scale, down in zip(scales, heights, strict=True))
        best = place == len(done) - 1
        colour = ORANGE if best else elements.shade(place / max(len(done) - 1, 1))
        content.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{3 if best else 1.3}" '
            f'stroke-opacity="{1 if best else 0.75}"><title>{escape(f"trial {row.number}: {row.score:.3f}")}</title>'
            "</polyline>"
        )
    content += [scale.drawn(down) for scale, down in zip(scales, heights, strict=True)]
    return elements.inline("".join(content), heights[-1] + 34, alt)


class _Scale:
    """One axis of the parallel coordinates.

    Args:
        name: Name of the parameter.
        values: Value of the parameter in every trial.
        log: Whether the axis is logarithmic.
    """

    _LEFT, _RIGHT = 16.0, elements.WIDTH - 16.0

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
        """Return the horizontal position of a trial's line on this axis, in chart units.

        Args:
            place: Position of the trial in `values`.
        """
        if self._axis is not None:
            share = self._axis.share(float(self._values[place]))
        else:
            share = (self._choices.index(str(self._values[place])) + 0.5) / len(self._choices)
            # Steps of the golden ratio spread the lines through one choice evenly and reproducibly.
            share += ((place * 0.6180339887) % 1 - 0.5) * min(0.5 / len(self._choices), 0.06)
        return self._LEFT + share * (self._RIGHT - self._LEFT)

    def drawn(self, down: float) -> str:
        """Return the axis as SVG, with name above and values below.

        Args:
            down: Vertical position in chart units.
        """
        width = self._RIGHT - self._LEFT
        parts = [
            f'<line x1="{self._LEFT}" x2="{self._RIGHT}" y1="{down}" y2="{down}" stroke="{GREY}" stroke-width="1.4"/>',
            elements.text(self._LEFT, down - 6, self._name, bold=True),
        ]
        if self._axis is not None:
            low, high = (f"{value:.3g}" for value in (self._axis.low, self._axis.high))
            parts += [
                elements.text(self._LEFT, down + 13, low, size=_SMALL),
                elements.text(self._RIGHT, down + 13, high, "end", size=_SMALL),
            ]
            return "".join(parts)
        step = width / len(self._choices)
        for k, choice in enumerate(self._choices):
            middle = self._LEFT + (k + 0.5) * step
            # Long labels alternate between two lines, so that each label has twice the width.
            line = 13 + 11 * (k % 2) * (max(text_width(name, _SMALL) for name in self._choices) > step)
            words = shortened(choice, 2 * step - 6, _SMALL)
            half = text_width(words, _SMALL) / 2
            middle = min(max(middle, self._LEFT + half - 12), self._RIGHT - half + 12)
            parts.append(f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{down}" y2="{down + 4}" stroke="{PALE}"/>')
            parts.append(elements.text(middle, down + line, words, "middle", size=_SMALL))
        return "".join(parts)


def interval_rows(
    rows: Sequence[tuple[str, float, float, float, str, str]], low: float, high: float, chance: float = 0.5
) -> str:
    """Return HTML rows, one per value, that show the values and their intervals on a common scale.

    Args:
        rows: Name, value, lower end, upper end, CSS classes and note. Values of nan and intervals with an end of nan
            are not drawn.
        low: Left end of the scale.
        high: Right end of the scale.
        chance: Expected value for guessing, drawn as a dotted line.
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
        f'<span style="left:{100 * axis.share(value):.1f}%">{value:g}</span>' for value in nice_ticks(low, high)
    )
    return f'<div class="rows">{"".join(out)}<div class="row scale"><span class="track">{marks}</span></div></div>'


def part_rows(parts: Sequence[tuple[str, Subgroup, Measured, Measured | None]]) -> str:
    """Return HTML rows, one per subgroup, that show the accuracy.

    The mean over cases is drawn as a bar, the interval as a line, and each case as a dot.

    Args:
        parts: Name, subgroup, accuracy with interval, and AUC (or None) of each subgroup.
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
    """Return HTML rows, one per share, that show the share as a bar and the spread as a line.

    Args:
        shares: Share and spread by name, in drawing order.
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


def split_ends(found: Measured, digits: int = 2) -> tuple[str, str]:
    """Return a number and its interval as two texts, for two table columns."""
    value = f"{found.value:.{digits}f}" if np.isfinite(found.value) else "—"
    if not np.isfinite([found.low, found.high]).all():
        return value, "no interval"
    return value, f"{found.low:.{digits}f} to {found.high:.{digits}f}"


def with_ends(found: Measured, digits: int = 2) -> str:
    """Return a number with its interval as text, such as `0.85 (0.71 to 0.94)`."""
    value, ends = split_ends(found, digits)
    return f"{value} ({ends})"
