"""Documents as blocks of content, which can be rendered as Markdown or HTML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bhsearch.reporting import html


@dataclass(frozen=True)
class Text:
    """A paragraph of text in a document."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table; the last `numbers` columns contain numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int = 0


@dataclass(frozen=True)
class Image:
    """One image, or two images to compare, with one caption.

    Attributes:
        name: Prefix of the names of the image files.
        files: Content of each image as a PNG, JPEG or SVG file.
        caption: Caption.
    """

    name: str
    files: Sequence[bytes]
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Images side by side."""

    pictures: Sequence[Image]


Block = Text | Bullets | Table | Gallery


@dataclass(frozen=True)
class Section:
    """Blocks under a heading.

    Attributes:
        title: Heading.
        blocks: Blocks in order.
        wide: Whether the section takes the full width of the page.
    """

    title: str
    blocks: Sequence[Block]
    wide: bool = False


def to_markdown(sections: Iterable[Section], folder: str = "") -> str:
    """Render sections as Markdown.

    Args:
        sections: Sections in order.
        folder: Folder of the image files from `picture_files`, relative to the document; empty to render captions
            without images.
    """
    lines = []
    for section in sections:
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            lines += [*_markdown(block, folder), ""]
    return "\n".join(lines)


def to_html(sections: Iterable[Section]) -> str:
    """Render sections as cards of a page, in two columns on wide screens."""
    cards = []
    for section in sections:
        card = html.section(section.title, *map(_html, section.blocks))
        cards.append(f'<div class="wide">{card}</div>' if section.wide else card)
    return html.columns(*cards)


def picture_files(sections: Iterable[Section]) -> Iterator[tuple[str, bytes]]:
    """Yield file name and content of every image; `to_markdown` refers to the same file names."""
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Gallery):
                for picture in block.pictures:
                    yield from zip(_names(picture), picture.files, strict=True)


def _names(picture: Image) -> list[str]:
    return [f"{picture.name}_{k}.{html.suffix_of(file)}" for k, file in enumerate(picture.files)]


def _markdown(block: Block, folder: str) -> list[str]:
    if isinstance(block, Text):
        return [block.text]
    if isinstance(block, Bullets):
        return [f"- {line}" for line in block.lines]
    if isinstance(block, Table):
        cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in block.rows]
        ruler = ["---"] * (len(block.head) - block.numbers) + ["---:"] * block.numbers
        return [f"| {' | '.join(row)} |" for row in (block.head, ruler, *cells)]
    lines = []
    for picture in block.pictures:
        shown = [f"![{picture.caption}]({folder}/{name})" for name in _names(picture)] if folder else []
        lines += [" ".join([*shown, picture.caption]), ""]
    return lines[:-1]


def _html(block: Block) -> str:
    if isinstance(block, Text):
        return html.paragraphs(block.text)
    if isinstance(block, Bullets):
        return html.bullets(block.lines)
    if isinstance(block, Table):
        return html.table(block.head, block.rows, block.numbers)
    figures = []
    for picture in block.pictures:
        shown = "".join(html.image(file, picture.caption) for file in picture.files)
        framed = f'<div class="pair">{shown}</div>' if len(picture.files) > 1 else shown
        figures.append(html.figure(framed, picture.caption))
    return f'<div class="pictures pairs">{"".join(figures)}</div>'
