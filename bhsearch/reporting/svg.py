"""Elements of inline SVG charts, laid out for phones and scaled up on larger screens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from bhsearch.reporting.figures.description import Axis
from bhsearch.reporting.figures.style import BLUE, GREY, INK, PALE

WIDTH = 360.0
_CHAR = 6.1  # mean width of a character at the default font size, in chart units
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 12.0, 12.0, 40.0
HEIGHT = 250.0
SQUARE = WIDTH - _LEFT - _RIGHT + _TOP + _BOTTOM  # height of a chart with axes of equal length


@dataclass(frozen=True)
class Frame:
    """A chart with two axes, which converts data to positions and renders marks as SVG.

    Attributes:
        x, y: Axes.
        height: Height in chart units.
    """

    x: Axis
    y: Axis
    height: float = HEIGHT

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the position of a data point in chart units, from the left and from the top."""
        across = _LEFT + self.x.share(x) * (WIDTH - _LEFT - _RIGHT)
        return across, self.height - _BOTTOM - self.y.share(y) * (self.height - _TOP - _BOTTOM)

    def points(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        """Return data points as the value of an SVG `points` attribute."""
        return " ".join("{:.1f},{:.1f}".format(*self.at(x, y)) for x, y in zip(xs, ys, strict=True))

    def line(self, xs: Sequence[float], ys: Sequence[float], colour: str, width: float = 2.0, dash: str = "") -> str:
        """Return an SVG polyline through data points."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        return (
            f'<polyline points="{self.points(xs, ys)}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>'
        )

    def area(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> str:
        """Return the area between two lines."""
        around = f"{self.points(xs, high)} {self.points(xs[::-1], low[::-1])}"
        return f'<polygon points="{around}" fill="{colour}" fill-opacity="0.18"/>'

    def bar(self, left: float, width: float, height: float, colour: str) -> str:
        """Return a bar from 0 upwards."""
        (x, top), (right, foot) = self.at(left, height), self.at(left + width, 0.0)
        return (
            f'<rect x="{x:.1f}" y="{top:.1f}" width="{right - x:.1f}" height="{foot - top:.1f}" fill="{colour}" '
            'fill-opacity="0.45"/>'
        )

    def dot(self, x: float, y: float, colour: str, radius: float = 4.0, title: str = "", opacity: float = 0.85) -> str:
        """Return a filled point, with a title shown on hover."""
        across, down = self.at(x, y)
        said = f"<title>{escape(title)}</title>" if title else ""
        return (
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity="{opacity}">'
            f"{said}</circle>"
        )

    def ring(self, x: float, y: float, colour: str, radius: float, title: str = "") -> str:
        """Return a hollow point, with a title shown on hover."""
        across, down = self.at(x, y)
        return (
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{radius:.1f}" fill="#fff" fill-opacity="0.6" '
            f'stroke="{colour}" stroke-width="1.6"><title>{escape(title)}</title></circle>'
        )

    def cross(self, x: float, y: float, title: str = "") -> str:
        """Return a cross, with a title shown on hover."""
        across, down = self.at(x, y)
        return (
            f'<path d="M{across - 4:.1f},{down - 4:.1f}l8,8m0,-8l-8,8" stroke="{INK}" stroke-width="1.6">'
            f"<title>{escape(title)}</title></path>"
        )

    def label(self, x: float, y: float, words: str, anchor: str = "start", up: float = 8.0) -> str:
        """Return text above a data point, shifted if needed to stay inside the chart."""
        across, down = self.at(x, y)
        half = len(words) * _CHAR * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
        least = 2.0 + half
        most = WIDTH - 2.0 - (len(words) * _CHAR - half)
        across = min(max(across, least), max(most, least))
        return text(across, max(down - up, 12.0), words, anchor=anchor, bold=True)

    def drawn(self, content: Sequence[str], alt: str) -> str:
        """Return the complete chart as an SVG element.

        Args:
            content: SVG elements of the marks, drawn over axes and grid.
            alt: Text alternative for screen readers.
        """
        foot, right = self.height - _BOTTOM, WIDTH - _RIGHT
        parts = []
        for value in self.y.marks():
            _, down = self.at(self.x.low, value)
            parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{down:.1f}" y2="{down:.1f}" stroke="{PALE}"/>')
            parts.append(text(_LEFT - 6, down + 4, f"{value:g}", anchor="end"))
        for value in self.x.marks():
            across, _ = self.at(value, self.y.low)
            parts.append(f'<line x1="{across:.1f}" x2="{across:.1f}" y1="{foot}" y2="{foot + 4}" stroke="{GREY}"/>')
            parts.append(text(across, foot + 16, f"{value:g}", anchor="middle"))
        parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{foot}" y2="{foot}" stroke="{GREY}"/>')
        parts.append(text((_LEFT + right) / 2, self.height - 6, self.x.name, anchor="middle"))
        middle = (_TOP + foot) / 2
        turned = f'transform="translate(11 {middle:.1f}) rotate(-90)" text-anchor="middle"'
        parts.append(f"<text {turned}>{escape(self.y.name)}</text>")
        return chart("".join([*parts, *content]), self.height, alt)


def chart(content: str, height: float, alt: str) -> str:
    """Return an SVG element of width `WIDTH`.

    Args:
        content: SVG elements.
        height: Height in chart units.
        alt: Text alternative for screen readers.
    """
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(alt)}" '
        f'font-size="11.5" fill="{INK}">{content}</svg>'
    )


def text(x: float, y: float, words: str, anchor: str = "start", bold: bool = False, size: float = 0.0) -> str:
    """Return text at a position in chart units; `size` 0 means the default font size."""
    weight = ' font-weight="600"' if bold else ""
    sized = f' font-size="{size:g}"' if size else ""
    # A white outline keeps text readable over lines.
    edge = 'stroke="#fff" stroke-width="3" stroke-linejoin="round" paint-order="stroke"'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {edge}{weight}{sized}>{escape(words)}</text>'


def shortened(words: str, width: float, size: float = 11.5) -> str:
    """Truncate text to a width in chart units."""
    most = max(3, int(width / (_CHAR * size / 11.5)))
    return words if len(words) <= most else f"{words[: most - 1]}…"


def shade(share: float) -> str:
    """Return a CSS colour between pale grey (0) and blue (1)."""
    pale, deep = (np.array([int(c[k : k + 2], 16) for k in (1, 3, 5)], float) for c in ("#C9CFD6", BLUE))
    mixed = np.round(pale + (deep - pale) * min(max(share, 0.0), 1.0)).astype(int)
    return "#{:02x}{:02x}{:02x}".format(*mixed)
