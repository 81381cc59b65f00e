"""`python -m bhsearch.dataset`: what a data set holds, what is odd about it, and what the cache keeps of it."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from bhsearch import terminal
from bhsearch.errors import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bhsearch.data.index import Index

app = typer.Typer(
    help="Look at a data set, and at the cache.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Data = Annotated[str, typer.Argument(metavar="PATH", help="Folder of images, manifest (.csv), or phantom.")]
Layout = Annotated[str, typer.Option(help="auto, breakhis, idc, folders or manifest.")]
CasePattern = Annotated[
    str | None, typer.Option(metavar="REGEX", help="Layout folders: its group finds the case in a path.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad-images", help="Go on without files that cannot be read.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_MOST = 10  # examples of each finding at the terminal
_STYLES = {"leak": "bold red", "error": "red", "merged": "yellow", "siblings": "yellow", "note": "bold"}


@app.command()
def info(
    path: Data = "phantom",
    layout: Layout = "auto",
    case_pattern: CasePattern = None,
    skip_bad_images: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Count images, cases, slides and groups."""
    from bhsearch.data import audit as audits

    index = _open(path, layout, case_pattern, skip_bad_images)
    counts = audits.counts(index)
    if as_json:
        _print_json(counts)
        return
    _say(*audits.audit(index).head())
    _say(f"Layout {index.layout}, in {index.root}")
    _say(f"Fingerprint {index.fingerprint}")
    _print_table("class", ("images", "cases", "slides", "groups"), counts["classes"])
    for title, name in (("subtype", "subtypes"), ("magnification", "magnifications"), ("part", "parts")):
        if counts[name]:
            _print_table(title, ("benign", "malignant", "all"), counts[name])
    if index.bad:
        _say("", f"Left out, since they cannot be read: {len(index.bad):,} files")
        _say(listed([f"{file.path}: {file.reason}" for file in index.bad]))


@app.command()
def audit(
    path: Data = "phantom",
    layout: Layout = "auto",
    case_pattern: CasePattern = None,
    skip_bad_images: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Find duplicates, contradictions and leaks."""
    from bhsearch.data import audit as audits

    result = audits.audit(_open(path, layout, case_pattern, skip_bad_images))
    if as_json:
        _print_json(result.to_dict())
        return
    _say(*result.head())
    for finding in result.findings():
        terminal.out.print()
        terminal.out.print(finding.title, style=_STYLES[finding.weight], markup=False)
        for line in listed(finding.examples, _MOST).splitlines():
            _say_indented(line.strip())
    if not result.findings():
        _say("Nothing odd was found.")
    elif any(len(finding.examples) > _MOST for finding in result.findings()):
        _say("", "--json lists everything.")


@app.command()
def cache(clear: Annotated[bool, typer.Option("--clear", help="Delete everything in it.")] = False) -> None:
    """List what the cache keeps, or delete it."""
    from bhsearch.data import store

    if clear:
        _say(f"Freed {_size(store.clear())} in {store.cache_root()}")
        return
    entries = store.entries()
    if entries:
        table = _table("kind", ("size", "days unused"))
        table.add_column("key", overflow="fold")
        for entry in entries:
            table.add_row(entry.kind, _size(entry.n_bytes), f"{entry.age_days:.1f}", entry.key)
        terminal.out.print(table)
    total = sum(entry.n_bytes for entry in entries)
    noun = "entry" if len(entries) == 1 else "entries"
    _say(f"{len(entries):,} {noun}, {_size(total)} in {store.cache_root()}")


def _open(path: str, layout: str, case_pattern: str | None, skip_bad_images: bool) -> Index:
    from bhsearch.data.opening import open_data

    with _progress("reading images") as progress:
        return open_data(
            path, layout=layout, case_pattern=case_pattern, skip_bad_images=skip_bad_images, progress=progress
        )


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the error stream, gone when done; nothing at all where that is no terminal."""
    columns = (TextColumn(what), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.err, transient=True, disable=not terminal.err.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _say(*lines: str) -> None:
    """Print lines as they are: wrapped at a terminal, whole when piped, so that they can be searched and cut."""
    for line in lines:
        terminal.out.print(line, markup=False, soft_wrap=not terminal.out.is_terminal)


def _say_indented(line: str) -> None:
    if terminal.out.is_terminal:
        terminal.out.print(Padding.indent(Text(line), 2))
    else:
        _say(f"  {line}")


def _print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, indent=2))


def _table(first: str, numbers: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first)
    for number in numbers:
        table.add_column(number, justify="right")
    return table


def _print_table(first: str, numbers: tuple[str, ...], rows: dict[str, dict[str, int]]) -> None:
    table = _table(first, numbers)
    for name, row in rows.items():
        table.add_row(name, *(f"{row[number]:,}" for number in numbers))
    terminal.out.print()
    terminal.out.print(table)


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"


if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.dataset")
