"""Elements of SVG files and inline charts: shapes, text, and images. Text arguments are escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from bhsearch.reporting.figures.palette import BLUE, INK, WHITE, mixed
from bhsearch.reporting.svg.text_width import FONTS

SIZE = 11.5  # default font size in units
WIDTH = 360.0  # width of an inline chart in units, which fits the screen of a phone
# Characters that XML 1.0 does not allow, not even as references.
_FORBIDDEN = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Points = Sequence[tuple[float, float]]


def escaped(words: str) -> str:
    """Return text as XML: special characters escaped, forbidden ones replaced."""
    return escape(_FORBIDDEN.sub("\ufffd", words))


def inline(content: str, height: float, alt: str) -> str:
    """Return an SVG element of width `WIDTH` for a page.

    Args:
        content: SVG elements.
        height: Height in units.
        alt: Text alternative for screen readers.
    """
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escaped(alt)}" '
        f'font-size="{SIZE}" fill="{INK}">{content}</svg>'
    )


def file(content: str, size: tuple[float, float], title: str, described: str) -> str:
    """Return the content of an SVG file with a white background.

    Args:
        content: SVG elements.
        size: Width and height in units, which are CSS pixels.
        title: Name of the picture for screen readers.
        described: What the picture shows, for screen readers.
    """
    width, height = size
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="title description" '
        f'font-family="{escape(FONTS)}" font-size="{SIZE}" fill="{INK}">\n'
        f'<title id="title">{escaped(title)}</title>\n<desc id="description">{escaped(described)}</desc>\n'
        f'<rect width="{width:g}" height="{height:g}" fill="{WHITE}"/>\n{content}\n</svg>\n'
    )


def text(
    x: float,
    y: float,
    words: str,
    anchor: str = "start",
    *,
    bold: bool = False,
    size: float = 0.0,
    colour: str = "",
    turned: float = 0.0,
    outlined: bool = True,
) -> str:
    """Return a line of text at a position.

    Args:
        x: Horizontal position in units.
        y: Vertical position of the baseline in units.
        words: Text.
        anchor: Part of the text at the position: `start`, `middle` or `end`.
        bold: Whether the text is bold.
        size: Font size; 0 for the default.
        colour: CSS colour; empty for the default.
        turned: Clockwise rotation around the position in degrees.
        outlined: Whether a white outline keeps the text readable over lines.
    """
    parts = [f'x="{_number(x)}" y="{_number(y)}"']
    if anchor != "start":
        parts.append(f'text-anchor="{anchor}"')
    if outlined:
        parts.append(f'stroke="{WHITE}" stroke-width="3" stroke-linejoin="round" paint-order="stroke"')
    if bold:
        parts.append('font-weight="600"')
    if size:
        parts.append(f'font-size="{size:g}"')
    if colour:
        parts.append(f'fill="{colour}"')
    if turned:
        parts.append(f'transform="rotate({turned:g} {_number(x)} {_number(y)})"')
    return f"<text {' '.join(parts)}>{escaped(words)}</text>"


def line(points: Points, colour: str, width: float, dash: str = "") -> str:
    """Return a polyline; nothing without points."""
    if not points:
        return ""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{_joined(points)}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'


def straight(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0) -> str:
    """Return a straight line, such as an axis, a tick or a grid line."""
    wide = f' stroke-width="{width:g}"' if width != 1.0 else ""
    ends = (
        f'{name}="{_number(value)}"' for name, value in zip(("x1", "y1", "x2", "y2"), (x1, y1, x2, y2), strict=True)
    )
    return f'<line {" ".join(ends)} stroke="{colour}"{wide}/>'


def area(points: Points, colour: str) -> str:
    """Return a translucent polygon."""
    return f'<polygon points="{_joined(points)}" fill="{colour}" fill-opacity="0.18"/>'


def box(x: float, y: float, width: float, height: float, colour: str, opacity: float = 1.0, edge: str = "") -> str:
    """Return a filled rectangle with its upper left corner at a position, and an optional edge."""
    # Without crisp edges, the page would shine through between the cells of a matrix.
    shaded = f' fill-opacity="{opacity:g}"' if opacity < 1 else ' shape-rendering="crispEdges"' * (not edge)
    edged = f' stroke="{edge}" rx="4"' if edge else ""
    size = f'width="{_number(width)}" height="{_number(height)}"'
    return f'<rect x="{_number(x)}" y="{_number(y)}" {size} fill="{colour}"{shaded}{edged}/>'


def disc(x: float, y: float, radius: float, colour: str, title: str = "", opacity: float = 1.0) -> str:
    """Return a filled circle, with a title shown on hover."""
    place = f'cx="{_number(x)}" cy="{_number(y)}" r="{_number(radius)}"'
    return f'<circle {place} fill="{colour}" fill-opacity="{opacity:g}">{_title(title)}</circle>'


def ring(x: float, y: float, radius: float, colour: str, title: str = "") -> str:
    """Return a hollow circle, with a title shown on hover."""
    place = f'cx="{_number(x)}" cy="{_number(y)}" r="{_number(radius)}"'
    look = f'fill="{WHITE}" fill-opacity="0.6" stroke="{colour}" stroke-width="1.6"'
    return f"<circle {place} {look}>{_title(title)}</circle>"


def cross(x: float, y: float, title: str = "") -> str:
    """Return a cross, with a title shown on hover."""
    drawn = f"M{_number(x - 4)},{_number(y - 4)}l8,8m0,-8l-8,8"
    return f'<path d="{drawn}" stroke="{INK}" stroke-width="1.6" fill="none">{_title(title)}</path>'


def image(x: float, y: float, width: float, height: float, uri: str) -> str:
    """Return an embedded image."""
    size = f'width="{_number(width)}" height="{_number(height)}"'
    return f'<image x="{_number(x)}" y="{_number(y)}" {size} preserveAspectRatio="none" href="{uri}"/>'


def shade(share: float) -> str:
    """Return a CSS colour between pale grey (0) and blue (1)."""
    return mixed("#C9CFD6", BLUE, min(max(share, 0.0), 1.0))


def _title(words: str) -> str:
    return f"<title>{escaped(words)}</title>" if words else ""


def _joined(points: Points) -> str:
    return " ".join([f"{x:.1f},{y:.1f}" for x, y in points])


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
