"""Pictures as SVG files: title, detail and note above panels, images and words."""

from __future__ import annotations

from bhsearch.reporting import html
from bhsearch.reporting.figures.marks import Cross, Dot, Line
from bhsearch.reporting.figures.palette import GREY, INK, NOTE, ORANGE
from bhsearch.reporting.figures.picture import FRAME, LEGEND, MARGIN, Panel, Picture, Tile
from bhsearch.reporting.svg import elements
from bhsearch.reporting.svg.elements import SIZE
from bhsearch.reporting.svg.frame import DASHES, Frame
from bhsearch.reporting.svg.text_width import text_width, wrapped

_TITLE = 16.5  # font size
_LINE = 14.0  # distance of lines of text
_NOTE_WIDTH = 230.0  # widest line of a note
_SAMPLE, _GAP = 22.0, 16.0  # legend: width of the sample of a mark, and distance of entries
_DOT = 4.0  # radius of dots in a legend


def to_svg(picture: Picture) -> str:
    """Return a picture as the content of an SVG file."""
    header, height = _header(picture)
    offset = height + max((LEGEND * (_n_rows(panel) - 1) for panel in picture.panels), default=0.0)
    if picture.panels and picture.panels[0].named:
        offset += LEGEND
    parts = [header, f'<g transform="translate(0 {offset:g})">']
    parts += [_panel(panel, picture.width) for panel in picture.panels]
    parts += [_tile(tile) for tile in picture.tiles]
    parts += [
        elements.text(word.x, word.y, word.text, word.anchor, colour=word.colour, outlined=False)
        for word in picture.words
    ]
    size = (picture.width, offset + picture.height)
    return elements.file("\n".join([*parts, "</g>"]), size, picture.title, _described(picture))


def _described(picture: Picture) -> str:
    """Return the text for screen readers."""
    headlines = [panel.figure.headline for panel in picture.panels if panel.figure.headline]
    said = [picture.alt or "; ".join(headlines), picture.detail.replace("\n", "; "), picture.note]
    return ". ".join(words.strip(" .") for words in said if words) + "."


def _header(picture: Picture) -> tuple[str, float]:
    """Return title, detail and note as SVG, and their height."""
    parts = [elements.text(MARGIN, 26.0, picture.title, bold=True, size=_TITLE, outlined=False)]
    free, note_bottom = picture.width - 2 * MARGIN, 0.0
    if picture.note:
        most = min(_NOTE_WIDTH, free - text_width(picture.title, _TITLE, bold=True) - 30.0)
        lines = wrapped(picture.note, max(most, 90.0), SIZE)
        wide = max(text_width(line, SIZE) for line in lines) + 14.0
        left, note_bottom = picture.width - MARGIN - wide, 12.0 + _LINE * len(lines) + 8.0
        parts.append(elements.box(left, 12.0, wide, note_bottom - 12.0, NOTE, edge=ORANGE))
        parts += [elements.text(left + 7.0, 26.0 + k * _LINE, line, outlined=False) for k, line in enumerate(lines)]
        if len(lines) > 1:
            free -= wide + 16.0
    detail = wrapped(picture.detail, free, SIZE) if picture.detail else []
    parts += [
        elements.text(MARGIN, 47.0 + k * _LINE, line, colour=GREY, outlined=False) for k, line in enumerate(detail)
    ]
    return "\n".join(parts), max(33.0 + _LINE * len(detail), note_bottom) + 6.0


def _panel(panel: Panel, width: float) -> str:
    frame = Frame(panel.figure.x, panel.figure.y, panel.box, width)
    parts = [frame.axes(panel.figure.has_grid, not panel.shares_x), *map(frame.mark, panel.figure.marks)]
    if panel.figure.headline:
        parts.append(frame.headline(panel.figure.headline))
    if panel.title:
        middle = (panel.box.left + panel.box.right) / 2
        parts.append(elements.text(middle, panel.box.top - 8.0, panel.title, "middle", outlined=False))
    return "\n".join([*parts, *_legend(panel)])


def _n_rows(panel: Panel) -> int:
    return max(len(_rows(panel)), 1)


def _rows(panel: Panel) -> list[list[str]]:
    """Return the names of a legend in rows that are at most as wide as the panel."""
    rows: list[list[str]] = []
    for name in panel.named:
        if rows and _row_width([*rows[-1], name]) <= panel.box.right - panel.box.left:
            rows[-1].append(name)
        else:
            rows.append([name])
    return rows


def _row_width(names: list[str]) -> float:
    return sum(_SAMPLE + 6.0 + text_width(name, SIZE) for name in names) + _GAP * (len(names) - 1)


def _legend(panel: Panel) -> list[str]:
    """Return a legend above the upper right corner of a panel, where it hides no data."""
    named, rows, parts = panel.named, _rows(panel), []
    for k, names in enumerate(rows):
        x = panel.box.right - _row_width(names)
        y = panel.box.top - 15.0 - LEGEND * (len(rows) - 1 - k)
        for name in names:
            parts += [_sample(named[name], x, y), elements.text(x + _SAMPLE + 6.0, y + 4.0, name, outlined=False)]
            x += _SAMPLE + 6.0 + text_width(name, SIZE) + _GAP
    return parts


def _sample(mark: Line | Dot | Cross, x: float, y: float) -> str:
    """Return a sample of a mark for a legend, `_SAMPLE` wide."""
    middle = x + _SAMPLE / 2
    if isinstance(mark, Line):
        return elements.line([(x, y), (x + _SAMPLE, y)], mark.colour, mark.width, DASHES[mark.dash])
    if isinstance(mark, Cross):
        return elements.cross(middle, y)
    return elements.ring(middle, y, _DOT, mark.colour) if mark.hollow else elements.disc(middle, y, _DOT, mark.colour)


def _tile(tile: Tile) -> str:
    parts = [elements.image(tile.left, tile.top, tile.side, tile.side, html.data_uri(tile.image))]
    frame = FRAME if tile.edge else 0.0
    if tile.edge:
        around = tile.side + 2 * frame
        parts.insert(0, elements.box(tile.left - frame, tile.top - frame, around, around, tile.edge))
    below = tile.top + tile.side + frame + 13.0
    parts += [
        elements.text(tile.left - frame, below + k * 13.0, line, colour=INK, outlined=False)
        for k, line in enumerate(tile.lines)
    ]
    return "\n".join(parts)
