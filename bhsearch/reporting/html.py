"""Elements of a self-contained HTML page: styles, tables, and images as data URIs. Text arguments are escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from bhsearch.evaluation.predictions import DISCLAIMER

_LONG_WORD, _LONG_NUMBER = 20, 30  # characters
# First bytes, media type and suffix of the kinds of image files.
_IMAGE_KINDS = (
    (b"\x89PNG", "image/png", "png"),
    (b"\xff\xd8\xff", "image/jpeg", "jpg"),
    (b"<svg", "image/svg+xml", "svg"),
)

# One column on phones. Blue and orange match the figures; red marks invalid results only.
_STYLE = """
:root{--ink:#1d2126;--soft:#59636e;--line:#dfe3e8;--paper:#fff;--wash:#f5f7f9;--blue:#0072B2;--orange:#E69F00;
--vermillion:#D55E00;--red:#b3001b;--redwash:#fdecee;--amber:#fff3d6}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;color:var(--ink);background:var(--wash);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:0 16px 48px}
header{padding:20px 0 4px}
h1{font-size:1.5rem;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 4px}
h3{font-size:1rem;margin:16px 0 4px}
p{margin:6px 0}
a{color:var(--blue)}
.soft{color:var(--soft)}
.small{font-size:.875rem}
.card{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:18px;margin:14px 0;min-width:0}
.columns{display:grid;grid-template-columns:minmax(0,1fr);gap:14px;margin:14px 0;align-items:start}
.columns>.card,.columns>.wide>.card{margin:0}
.alarm{background:var(--redwash);border:2px solid var(--red);color:var(--red);border-radius:10px;padding:12px 18px;
margin:14px 0;font-weight:600}
.alarm p{margin:2px 0}
.note{background:var(--amber);border:1px solid var(--orange);border-radius:8px;padding:6px 12px;margin:10px 0}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:6px 10px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft)}
td.text{overflow-wrap:break-word}
td.long{overflow-wrap:anywhere;min-width:6rem}
td.number,th.number{text-align:right;white-space:nowrap}
dl{display:grid;grid-template-columns:minmax(0,7.5rem) minmax(0,1fr);gap:4px 14px;margin:8px 0;font-size:.95rem}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere;white-space:pre-line}
ul{margin:6px 0;padding-left:20px}
img,svg{display:block;max-width:100%;height:auto}svg{overflow:visible}
figure{margin:0}
figcaption{font-size:.875rem;color:var(--soft);margin-top:6px}
.pictures{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:12px}
.pictures.pairs{grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr))}
.pictures figcaption{color:var(--ink);font-size:.8rem;line-height:1.35;overflow-wrap:anywhere;
white-space:pre-line}
.pictures img{width:100%;border-radius:4px}
.tiles img,.pair img{aspect-ratio:1;object-fit:cover}
.wide,.stack{min-width:0}
.stack>.card:first-child{margin-top:0}.stack>.card:last-child{margin-bottom:0}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:4px}
.right img{outline:4px solid var(--blue);outline-offset:-4px}
.wrong img{outline:4px solid var(--orange);outline-offset:-4px}
details>summary{cursor:pointer;color:var(--blue);padding:6px 0}
footer{color:var(--soft);font-size:.875rem;padding:16px 0}
@media(min-width:720px){.pictures.tiles{grid-template-columns:repeat(4,minmax(0,1fr))}}
@media(min-width:880px){.columns{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}
.wide{grid-column:1/-1}h1{font-size:1.9rem}}
@media print{body{background:#fff}figure,svg,tr{break-inside:avoid}}
"""


def document(title: str, body: str, style: str = "") -> str:
    """Return a complete HTML page.

    Args:
        title: Title of the browser window.
        body: Content of the page, HTML.
        style: CSS to add to the common style.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # The policy forbids the page to load resources or run code.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n<footer>{escape(DISCLAIMER)}</footer>\n</main>\n</body>\n</html>\n"
    )


def _image_kind(picture: bytes) -> tuple[str, str]:
    """Return media type and suffix of an image file.

    Raises:
        ValueError: If the file is neither PNG, JPEG nor SVG.
    """
    found = next(((kind, suffix) for start, kind, suffix in _IMAGE_KINDS if picture.startswith(start)), None)
    if found is None:
        raise ValueError(f"`picture` must be a PNG, JPEG or SVG file, but starts with {picture[:8]!r}.")
    return found


def data_uri(picture: bytes) -> str:
    """Return an image file as a data URI.

    Raises:
        ValueError: If the file is neither PNG, JPEG nor SVG.
    """
    kind, _ = _image_kind(picture)
    return f"data:{kind};base64,{base64.b64encode(picture).decode()}"


def suffix_of(picture: bytes) -> str:
    """Return the suffix of an image file without the dot: `png`, `jpg` or `svg`.

    Raises:
        ValueError: If the file is neither PNG, JPEG nor SVG.
    """
    _, suffix = _image_kind(picture)
    return suffix


def image(picture: bytes, alt: str) -> str:
    """Return an image element with alternative text."""
    return f'<img src="{data_uri(picture)}" alt="{escape(alt)}">'


def figure(content: str, caption: str = "", kind: str = "") -> str:
    """Return a figure element with an optional caption below the content.

    Args:
        content: HTML.
        caption: Caption; empty for no caption.
        kind: CSS class; empty for no class.
    """
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    opened = f'<figure class="{kind}">' if kind else "<figure>"
    return f"{opened}{content}{said}</figure>"


def heading(title: str, *lines: str) -> str:
    """Return the heading of a page, with one paragraph per line below the title."""
    return f"<header><h1>{escape(title)}</h1>{paragraphs(*lines, kind='soft')}</header>"


def section(title: str, *content: str, lead: str = "") -> str:
    """Return a card with a heading, an optional lead sentence, and HTML content."""
    said = f'<p class="soft">{escape(lead)}</p>' if lead else ""
    return f'<section class="card"><h2>{escape(title)}</h2>{said}{"".join(content)}</section>'


def columns(*cards: str) -> str:
    """Return cards as a grid with two columns on wide screens and one column on narrow screens."""
    return f'<div class="columns">{"".join(cards)}</div>'


def alarm(sentences: Iterable[str]) -> str:
    """Return a red box with sentences; an empty string if there are no sentences."""
    return _box("alarm", "alert", sentences)


def stack(*cards: str) -> str:
    """Return cards stacked in one column."""
    return f'<div class="stack">{"".join(cards)}</div>'


def notice(sentences: Iterable[str]) -> str:
    """Return an amber box with the non-empty sentences; an empty string if there are none."""
    return _box("note", "note", sentences)


def _box(kind: str, role: str, sentences: Iterable[str]) -> str:
    said = paragraphs(*filter(None, sentences))
    return f'<div class="{kind}" role="{role}">{said}</div>' if said else ""


def paragraphs(*sentences: str, kind: str = "") -> str:
    """Return one paragraph per sentence."""
    opened = f'<p class="{kind}">' if kind else "<p>"
    return "".join(f"{opened}{escape(sentence)}</p>" for sentence in sentences)


def bullets(lines: Iterable[str]) -> str:
    """Return a bulleted list."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def facts(rows: Mapping[str, str]) -> str:
    """Return names and values as a description list."""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in rows.items())}</dl>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0, caption: str = "") -> str:
    """Return a table that scrolls horizontally if it is wider than the screen.

    Args:
        head: Names of the columns; the last `numbers` columns contain numbers.
        rows: Text of the cells.
        numbers: Number of right-aligned columns.
        caption: Description for screen readers.
    """
    kinds = ["text"] * (len(head) - numbers) + ["number"] * numbers
    top = "".join(f'<th scope="col" class="{kind}">{escape(name)}</th>' for name, kind in zip(head, kinds, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{_kind(cell, kind)}">{escape(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in rows
    )
    label = f' aria-label="{escape(caption)}"' if caption else ""
    return f'<div class="scroll"><table{label}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _kind(cell: str, kind: str) -> str:
    """Return the CSS class of a cell; the class `long` of cells with a very long word allows breaks inside words.

    A sentence instead of a number, such as the reason why there is none, wraps like text.
    """
    if kind == "number" and len(cell) > _LONG_NUMBER:
        kind = "text"
    return f"{kind} long" if kind == "text" and max(map(len, cell.split()), default=0) > _LONG_WORD else kind
