"""`bhsearch dataset`: inspect a data set for duplicates and leaks, list backbones, and manage the cache."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from bhsearch.cli import terminal
from bhsearch.cli.options import Command, Group, option, settings_options
from bhsearch.text import listed, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bhsearch.config import Settings
    from bhsearch.data.dataset import Dataset

app = typer.Typer(
    cls=Group,
    help="Inspect a data set, the backbones and the cache.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PathArgument = Annotated[
    str, typer.Argument(metavar="PATH", help="Image folder, manifest (.csv), or phantom.", show_default=False)
]
AsJson = Annotated[bool, option("Print JSON.", "", "--json")]
Backbone = Annotated[
    str, option("Backbone by name, a .keras file, or the folder of an encoder. [default: staintex-l]", "NAME")
]
_AUDIT = ("layout", "case_pattern", "class_map", "ignore_columns", "image_root")  # an audit lists unreadable images
_READING = (*_AUDIT, "skip_unreadable")
_SELECTING = ("magnification",)
_VECTORS = ("features", "features_key")
_NETWORK = ("weights_dir", "image_size")

_MOST = 10  # largest number of examples printed per finding
_STYLES = {
    "leak": "bold red",
    "error": "red",
    "merged": "yellow",
    "duplicate": "yellow",
    "siblings": "yellow",
    "note": "bold",
}


@app.command(cls=Command)
@settings_options(*_READING, *_SELECTING, *_VECTORS)
def info(
    path: PathArgument = "phantom",
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Count images, cases, slides, and groups of cases that share an image, and list sites and image sizes."""
    from bhsearch.data import audit as audits
    from bhsearch.data.images.files import describe_left_out

    whole, index = _open(data=path, **settings)
    counts = audits.counts(index) | {"fingerprint": whole.fingerprint}  # a study records that of the whole data set
    if as_json:
        _print_json(counts)
        return
    _say(*audits.audit(index).head())
    _say(f"Layout {index.layout}, in {index.root}")
    if len(index) < len(whole):
        _say(f"Only images at magnification {index.column('magnification')[0]}, of {plural(len(whole), 'image')}")
    _say(f"Fingerprint {whole.fingerprint}{' of the whole data set' if len(index) < len(whole) else ''}")
    _say(*filter(None, [audits.describe_sizes(counts["sizes"])]))
    _say(*(f"Vectors {vectors}" for vectors in index.vectors.values()))
    _print_table("class", ("images", "cases", "slides", "groups"), counts["classes"])
    for title, name in (
        ("subtype", "subtypes"),
        ("magnification", "magnifications"),
        ("site", "sites"),
        ("part", "parts"),
    ):
        if counts[name]:
            _print_table(title, ("benign", "malignant", "all"), counts[name])
    if index.notes or index.left_out:
        _say("", *index.notes, *([describe_left_out(index.left_out)] if index.left_out else []))
    if index.bad:
        _say("", f"Left out, since they cannot be read: {plural(len(index.bad), 'file')}")
        _say(listed([f"{file.path}: {file.reason}" for file in index.bad]))


@app.command(cls=Command)
@settings_options(*_AUDIT, *_SELECTING, *_VECTORS)
def audit(
    path: PathArgument = "phantom",
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """List unreadable and duplicate images, contradictory labels, and cases that a split by slide would separate."""
    from bhsearch.data import audit as audits

    _, index = _open(data=path, skip_unreadable=True, **settings)
    result = audits.audit(index)
    if as_json:
        _print_json(result.to_dict())
        return
    _say(*result.head())
    for finding in result.findings():
        terminal.out.print()
        terminal.out.print(finding.title, style=_STYLES[finding.severity], markup=False)
        for line in listed(finding.examples, _MOST).splitlines():
            _say_indented(line.strip())
    if not result.findings():
        _say("Nothing odd was found.")
    elif any(len(finding.examples) > _MOST for finding in result.findings()):
        _say("", "--json lists everything.")


@app.command("breakhis-folds", cls=Command)
@settings_options("skip_unreadable", *_NETWORK)
def breakhis_folds(
    path: PathArgument,
    folds_file: Annotated[list[Path], option("Published folds: dsfold1.txt dsfold2.txt ...", "FILE...")],
    more: Annotated[list[Path] | None, typer.Argument(metavar="FILES", hidden=True)] = None,
    backbone: Backbone = "staintex-l",
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Evaluate one fixed configuration on the published folds of BreakHis, and list the leaks of these folds.

    The files follow PATH and --folds-file, so that a shell can list them: --folds-file dsfold*.txt
    """
    from bhsearch.config import load_settings
    from bhsearch.data.layouts import breakhis_folds as data
    from bhsearch.evaluation.breakhis_rates import summaries
    from bhsearch.models.backbones.registry import find_backbones
    from bhsearch.protocols import breakhis_folds as protocol

    folds = data.read_folds([*folds_file, *(more or ())])
    chosen = load_settings(None, {"data": path, **settings})
    (network,) = find_backbones([backbone], _folder(chosen.weights_dir)).backbones
    index = _open_settings(chosen)
    placed = data.resolve_folds(index, folds)
    with _progress("resizing images") as progress:
        rates = protocol.evaluate_folds(index, placed, network, chosen.image_size, progress=progress)
    if as_json:
        _print_json(protocol.result_record(rates, placed))
        return
    _say(f"{index.name}, {network.name} at {chosen.image_size} px, {plural(len(placed), 'published fold')}")
    if index.synthetic:
        _say("The data are synthetic: drawn by a program, not taken from tissue.")
    table = _table("magnification", ("image rate, %", "patient recognition rate, %", "folds"))
    for row in summaries(rates):
        table.add_row(row.magnification, _percent(row.image_rate), _percent(row.recognition_rate), str(row.n_folds))
    terminal.out.print(table)
    _say(
        "Mean and standard deviation over folds. What the papers call a patient is a slide.",
        protocol.OFFICIAL_NOTE,
    )
    for fold in placed:
        _say("", fold.heading())
        for line in listed(fold.leaks(), _MOST).splitlines():
            _say_indented(line.strip())


@app.command(cls=Command)
@settings_options(*_READING, *_NETWORK, "folds")
def leakage(
    path: PathArgument = "phantom",
    backbone: Backbone = "staintex-l",
    repeats: Annotated[int, option("Number of times the folds are drawn. [default: 5]", "N")] = 5,
    picture: Annotated[Path, option("PNG file to draw the result into. [default: leakage.png]", "FILE")] = Path(
        "leakage.png"
    ),
    **settings: Any,
) -> None:
    """Score one configuration with folds by image, by slide and by case, to show how much a leak raises the score."""
    from bhsearch.config import load_settings
    from bhsearch.errors import PlaceError
    from bhsearch.runtime.cache import explain_write_errors

    if picture.is_dir():
        raise PlaceError(
            f"--picture must be the path of a PNG file, but {str(picture)!r} is a folder. Give a file in it, such as "
            f"{str(picture / 'leakage.png')!r}."
        )
    chosen = load_settings(None, {"data": path, "repeats": repeats, **settings})
    index = _open_settings(chosen)
    from bhsearch.cli.progress import TerminalReporter
    from bhsearch.models.backbones.registry import find_backbones
    from bhsearch.protocols.leakage import measure, table_rows
    from bhsearch.reporting.figures import style
    from bhsearch.reporting.figures.leakage import leakage_figure

    (found,) = find_backbones([backbone], _folder(chosen.weights_dir)).backbones
    size, folds = chosen.image_size, chosen.folds
    results = measure(index, found, TerminalReporter(), image_size=size, folds=folds, repeats=repeats)
    detail = f"{index.name}, {found.name} at {size} px, {repeats} x {folds} folds"
    note = "synthetic data (phantom)" if index.synthetic else ""
    _say(f"{detail}{', ' + note if note else ''}", "")
    _say("| folds by | AUC (range over repeats) | difference | cases on both sides |", "| --- | --- | --- | --- |")
    _say(*(f"| {' | '.join(row)} |" for row in table_rows(results)))
    _say("", "Only the score by case estimates performance on new patients.")
    with explain_write_errors(f"the picture {picture}", ""):
        picture.parent.mkdir(parents=True, exist_ok=True)
        figure = leakage_figure([(row.group_by, row.aucs) for row in results], detail, note)
        picture.write_bytes(style.to_png(figure))
    _say(f"Drawn in {picture}")


@app.command(cls=Command)
@settings_options(*_NETWORK)
def backbones(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAMES", help="Names, .keras files and folders of encoders. [default: all that are known]"
        ),
    ] = None,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """List the available backbones with their size, input, licence and measured speed.

    Weights are downloaded only for networks that are named, and nothing is measured.
    """
    from bhsearch.cli.backbones import listing
    from bhsearch.config import load_settings

    chosen = load_settings(None, settings)
    catalogue = listing.read(names or (), _folder(chosen.weights_dir), chosen.image_size)
    if as_json:
        _print_json(listing.record(catalogue))
    else:
        for entry in catalogue.entries:
            terminal.out.print(entry.backbone.name, style="bold", markup=False, soft_wrap=not terminal.out.is_terminal)
            _print_rows(listing.rows(entry))
            terminal.out.print()
        _say(*listing.left_out(catalogue), *([] if names else [listing.MORE]))
    listing.require_usable(catalogue)


@app.command(cls=Command)
def cache(clear: Annotated[bool, option("Delete all entries.", "", "--clear")] = False) -> None:
    """List the entries of the cache, or delete them."""
    from bhsearch.runtime import cache, cache_eviction

    if clear:
        _say(f"Freed {_size(cache.clear())} in {cache.cache_root()}")
        return
    entries = cache.entries()
    if entries:
        table = _table("kind", ("size", "days unused"))
        table.add_column("key", overflow="fold")
        for entry in entries:
            table.add_row(entry.kind, _size(entry.n_bytes), f"{entry.age_days:.1f}", entry.key)
        terminal.out.print(table)
    total, most = sum(entry.n_bytes for entry in entries), cache_eviction.limit_bytes()
    noun = "entry" if len(entries) == 1 else "entries"
    limit = "no limit" if most is None else f"at most {_size(most)}"
    _say(f"{len(entries):,} {noun}, {_size(total)} in {cache.cache_root()}")
    _say(f"{limit} ({cache_eviction.VARIABLE}); above it, the least recently used entries are evicted")


def _open(**settings: Any) -> tuple[Dataset, Dataset]:
    """Return a data set, read as a study reads it, and its images at the chosen magnification.

    Args:
        **settings: Settings by name; None for the default.
    """
    from bhsearch.config import load_settings

    return _open_selected(load_settings(None, settings))


def _open_settings(settings: Settings) -> Dataset:
    index, _ = _open_selected(settings)
    return index


def _open_selected(settings: Settings) -> tuple[Dataset, Dataset]:
    from bhsearch.data.open_data import is_phantom, make_phantom, open_selected

    if is_phantom(settings.data):
        with _progress("drawing synthetic tissue") as progress:
            make_phantom(settings.data, progress)
    with _progress("reading images") as progress:
        return open_selected(settings, progress=progress)


def _folder(path: str | None) -> Path | None:
    return None if path is None else Path(path)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on the error stream while the block runs, if the stream is a terminal.

    Args:
        what: Name of the work.

    Yields:
        Function of (done, total) that updates the bar.
    """
    columns = (TextColumn(what), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.err, transient=True, disable=not terminal.err.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _say(*lines: str) -> None:
    """Print lines of plain text, wrapped at a terminal but not in a pipe, where each line must stay whole."""
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


def _print_rows(rows: list[tuple[str, str]]) -> None:
    """Print headings with texts, which wrap in their own column at a terminal and not at all in a pipe."""
    width = max(len(heading) for heading, _ in rows)
    if not terminal.out.is_terminal:
        _say(*(f"  {heading:<{width}}  {text}" for heading, text in rows))
        return
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for heading, text in rows:
        grid.add_row(heading, Text(text))  # not parsed, because names may contain Rich markup
    terminal.out.print(Padding.indent(grid, 2))


def _percent(mean_and_spread: tuple[float, float]) -> str:
    mean, spread = (100 * value for value in mean_and_spread)
    return f"{mean:.1f}" if spread != spread else f"{mean:.1f} +- {spread:.1f}"


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"
