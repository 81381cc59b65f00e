"""Pictures: described figures, images and words under a title, independent of the drawing library.

`reporting.svg.picture` writes a `Picture` as an SVG file for MLflow, `drawing.matplotlib_figure` draws it for print.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bhsearch.reporting.figures.marks import Box, Cross, Description, Dot, Line

WIDTH, HEIGHT = 640.0, 400.0  # of a picture and of the part below its title, in units
MARGIN = 25.0  # left and right of the title
LEFT, RIGHT, BOTTOM = 75.0, 30.0, 50.0  # room for the labels of axes
LEGEND = 20.0  # height of a row of a legend
FRAME = 5.0  # width of the frame around an image


@dataclass(frozen=True)
class Panel:
    """A described figure at a place in a picture.

    Attributes:
        figure: Axes and marks.
        box: Rectangle between the axes, from the upper left corner of the part below the title.
        title: Title above the axes; may be empty.
        shares_x: Whether the panel below has the same horizontal axis, so that this one has no labels.
    """

    figure: Description
    box: Box
    title: str = ""
    shares_x: bool = False

    @property
    def named(self) -> dict[str, Line | Dot | Cross]:
        """The first mark of each name, for a legend."""
        found: dict[str, Line | Dot | Cross] = {}
        for mark in self.figure.marks:
            if isinstance(mark, Line | Dot | Cross) and mark.name:
                found.setdefault(mark.name, mark)
        return found


@dataclass(frozen=True)
class Tile:
    """An image in a picture.

    Attributes:
        left, top: Upper left corner, from the upper left corner of the part below the title.
        side: Width and height.
        image: PNG or JPEG file.
        edge: CSS colour of a frame around the image; empty for none.
        lines: Lines of text below the image.
    """

    left: float
    top: float
    side: float
    image: bytes
    edge: str = ""
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Words:
    """A line of text in a picture.

    Attributes:
        x, y: Position of the baseline, from the upper left corner of the part below the title.
        text: Text.
        anchor: Part of the text at the position: `start`, `middle` or `end`.
        colour: CSS colour; empty for the default.
    """

    x: float
    y: float
    text: str
    anchor: str = "start"
    colour: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture with a title, its parts, and what is said beside them.

    Attributes:
        title: Title.
        detail: How to read the picture, in one or several lines.
        note: Note that must be visible, such as "synthetic data (phantom)"; may be empty.
        panels: Described figures.
        tiles: Images.
        words: Further text.
        width: Width in units.
        height: Height of the part below the title in units.
        alt: What the picture shows, for screen readers; the headlines of the panels, if empty.
    """

    title: str
    detail: str
    note: str = ""
    panels: Sequence[Panel] = ()
    tiles: Sequence[Tile] = field(default=(), repr=False)
    words: Sequence[Words] = ()
    width: float = WIDTH
    height: float = HEIGHT
    alt: str = ""


def single(
    figure: Description, title: str, detail: str, note: str = "", *, left: float = LEFT, height: float = HEIGHT
) -> Picture:
    """Return a picture of one described figure.

    Args:
        figure: Axes and marks.
        title: Title.
        detail: How to read the figure.
        note: Note; may be empty.
        left: Room for the labels of the vertical axis.
        height: Height of the part below the title.
    """
    box = Box(left, 10.0, WIDTH - RIGHT, height - BOTTOM)
    return Picture(title, detail, note, [Panel(figure, box)], height=height)
