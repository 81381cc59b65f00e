"""The layout `manifest`: a CSV file that lists images with label and case, as written by programs or spreadsheets."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bhsearch.data.images.files import Images
from bhsearch.data.layouts.base import LayoutOptions
from bhsearch.data.layouts.class_names import ClassMap, manifest_classes, map_advice
from bhsearch.data.layouts.listing import ImageRecord, Listing, raise_data_errors
from bhsearch.data.layouts.naming import (
    PARTS,
    folded,
    is_part_column,
    is_placeholder,
    is_rounded_number,
    part_of,
)
from bhsearch.errors import DataError, SettingsError
from bhsearch.text import named, plural

SUFFIXES = (".csv", ".tsv")
REQUIRED_COLUMNS = ("path", "label", "case")
OPTIONAL_COLUMNS = ("slide", "subtype", "magnification", "site")
ID = "id"
PLACEHOLDER_RULE = (
    "Every image must name its case, but these names are placeholders for an unknown one, and their images would count "
    "as one patient. Name the case of each, or remove these images."
)

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


@dataclass(frozen=True)
class _Row:
    line: int
    fields: dict[str, str]


@dataclass(frozen=True)
class _Table:
    """Content of a manifest.

    Attributes:
        columns: Folded column names (see `naming.folded`) in order; empty for unnamed columns.
        names: Column names as written in the file.
        rows: Rows that are not empty.
    """

    columns: list[str]
    names: list[str]
    rows: list[_Row]


def read_manifest(
    file: Path,
    *,
    class_map: Sequence[str] = (),
    ignore_columns: Sequence[str] = (),
    image_root: Path | None = None,
    must_exist: bool = True,
) -> Listing:
    """Read the records of the images that a manifest lists.

    Args:
        file: UTF-8 text file with a header and with fields separated by commas, semicolons, tabs or bars.
        class_map: See `class_names.manifest_classes`.
        ignore_columns: Columns to ignore although they look like a predefined split (train, validation, test).
        image_root: Folder that contains the images; by default the folder of the manifest.
        must_exist: Whether the images must exist. If not, paths are names that are never looked up, and a column `id`
            may take the place of the column `path`, or give further names.

    Raises:
        DataError: If the manifest cannot be read, or paths, labels, cases or the predefined split are invalid.
        SettingsError: If an option does not fit the manifest.
    """
    table = _read_table(file, may_name=not must_exist)
    ignored = _ignored(table, ignore_columns)
    parts, notes = _parts(table, ignored, {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS, *([] if must_exist else [ID])})
    root = file.parent if image_root is None else image_root
    if not root.is_dir():
        raise SettingsError(f"--image-root must be an existing folder, but got {str(root)!r}.")
    classes = manifest_classes(class_map)
    _require_labels(table, classes)
    rows = _rows(file, root, table, classes, parts, ignored, must_exist)
    if not any(parts) and len(named_parts := _parts_in_paths(rows)) > 1:
        notes.append(
            f"The parts {', '.join(named_parts)} in the paths are not used: a manifest names parts in a column split."
        )
    return Listing(root, "manifest", tuple(sorted(rows, key=lambda row: row.path)), notes=tuple(notes))


class Manifest:
    """Layout of a CSV file that lists images with labels and cases."""

    pattern = "a CSV file with the columns path,label,case[,slide,subtype,magnification,site,split]"
    options = frozenset({"class_map", "image_root"})
    is_file = True
    names_dataset = False

    def detect(self, paths: Sequence[str], options: LayoutOptions) -> float:  # noqa: ARG002
        """Return 0, since a folder is never a manifest."""
        return 0.0

    def read(self, data: Path, images: Images, options: LayoutOptions) -> Listing:  # noqa: ARG002
        """List the images; see `Layout.read`."""
        return read_manifest(
            data,
            class_map=options.class_map,
            ignore_columns=options.ignore_columns,
            image_root=options.image_root,
        )


LAYOUT = Manifest()


# -- the table ---------------------------------------------------------------------------------------------------------


def _read_table(file: Path, may_name: bool = False) -> _Table:
    """Read a manifest; if `may_name`, a column `id` takes the place of a missing column `path`."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"Cannot read the manifest {file}: {(error.strerror or '').lower()}.") from error
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DataError(
            f"The manifest {file} is not UTF-8 text: byte {error.start + 1} is 0x{byte:02x}. Save it as UTF-8, which "
            "spreadsheet programs offer as `CSV UTF-8`."
        ) from error
    text, separator, skipped = _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator != "\t")
    try:
        names = [name.strip() for name in next(reader, [])]
        columns = [folded(name) for name in names]
        if may_name and "path" not in columns:
            columns = ["path" if name == ID else name for name in columns]
        _require_columns(file, columns, names, separator)
        rows = []
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                line = reader.line_num + skipped
                if any(cells[len(columns) :]):
                    raise DataError(
                        f"{file}, line {line}: the row has {len(cells)} fields, but the header has {len(columns)}. "
                        f"Quote fields that contain a {_SEPARATORS[separator]}."
                    )
                padded = [*cells, *[""] * (len(columns) - len(cells))]
                rows.append(_Row(line, dict(zip(columns, padded, strict=False))))
    except csv.Error as error:
        raise DataError(f"The manifest {file} is not valid CSV: {error}.") from error
    if not rows:
        raise DataError(f"The manifest {file} has no rows below its header. Add one row per image.")
    return _Table(columns, names, rows)


def _separator(text: str) -> tuple[str, str, int]:
    """Find the separator of a CSV text.

    Returns:
        Text without a first line such as `sep=;`, which Excel writes; separator; number of removed lines.
    """
    first, *rest = re.split(r"\r\n|\r|\n", text, maxsplit=1)
    declared = first.strip(' \r"')
    if declared.lower().startswith("sep=") and (declared[4:] or "\t") in _SEPARATORS:
        return "".join(rest), declared[4:] or "\t", 1

    def fit(separator: str) -> tuple[int, int]:
        names = next(csv.reader([first], delimiter=separator), [])
        return sum(folded(name) in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) for name in names), len(names)

    return text, max(_SEPARATORS, key=fit), 0


def _require_columns(file: Path, columns: list[str], names: list[str], separator: str) -> None:
    twice = [name for name, times in Counter(filter(None, columns)).items() if times > 1]
    if twice:
        raise DataError(
            f"The manifest {file} has several columns named {named(twice)}. Remove or rename the duplicates."
        )
    lacking = [name for name in REQUIRED_COLUMNS if name not in columns]
    if lacking:
        raise DataError(
            f"The manifest {file} lacks the required columns {', '.join(lacking)}. Its columns are "
            f"{', '.join(filter(None, names)) or 'empty'} (separator: {_SEPARATORS[separator]}). Rename the "
            "columns that hold these facts, or add them."
        )


# -- columns that divide the data into parts, and unused columns -------------------------------------------------------


def _ignored(table: _Table, ignore_columns: Sequence[str]) -> set[str]:
    ignored = {folded(name) for name in ignore_columns}
    unknown = [name for name in ignore_columns if folded(name) not in table.columns]
    if unknown:
        raise SettingsError(
            f"--ignore-column must name a column of the manifest, but got {named(unknown)}. The columns are "
            f"{', '.join(filter(None, table.names))}."
        )
    required = sorted(ignored & set(REQUIRED_COLUMNS))
    if required:
        raise SettingsError(f"--ignore-column cannot ignore required columns, but got {', '.join(required)}.")
    return ignored


def _parts(table: _Table, ignored: set[str], used: set[str]) -> tuple[list[str], list[str]]:
    """Return the part of each row (empty without a predefined split), and sentences about the columns.

    Raises:
        DataError: If several columns divide the data differently, or a column that seems to divide the data has values
            that are not names of parts.
    """
    chosen: dict[str, list[str]] = {}
    unused, notes = [], []
    for column, name in zip(table.columns, table.names, strict=True):
        if column in used or column in ignored:
            continue
        values = [row.fields[column] for row in table.rows]
        parts = [part_of(value) for value in values]
        if column and all(parts) and (is_part_column(name) or len(set(parts)) > 1):
            chosen[name] = [part or "" for part in parts]
        elif column and is_part_column(name) and any(values):
            raise DataError(_not_parts(name, table, parts))
        elif any(values):
            unused.append(name or "an unnamed column")
    if len({tuple(parts) for parts in chosen.values()}) > 1:
        raise DataError(
            f"The columns {named(chosen)} of the manifest define different splits. Ignore one of them with "
            f"--ignore-column {next(reversed(chosen))}."
        )
    if unused:
        notes.append(f"{'Columns' if len(unused) > 1 else 'Column'} of the manifest not used: {', '.join(unused)}.")
    if ignored:
        notes.append(f"Ignored on request: {', '.join(sorted(ignored))}.")
    for name, taken in chosen.items():
        present = set(taken)
        if len(present) == 1:
            notes.append(f"The column {name} has one value, {present.pop()}, so there is no predefined split.")
            return [""] * len(table.rows), notes
        notes.append(f"The predefined split is taken from the column {name}: {counted_parts(taken)}.")
        return taken, notes
    return [""] * len(table.rows), notes


def _not_parts(name: str, table: _Table, parts: list[str | None]) -> str:
    wrong = [row for row, part in zip(table.rows, parts, strict=True) if part is None]
    values = list(dict.fromkeys(row.fields[folded(name)] for row in wrong))
    return (
        f"The column {name!r} looks like a predefined split, so its values must be {', '.join(PARTS)}, but line "
        f"{wrong[0].line} has {named(values[:1])}. Correct the {'value' if len(values) == 1 else 'values'}, or ignore "
        f"the column with --ignore-column {name}."
    )


def counted_parts(parts: Iterable[str]) -> str:
    """Format the number of images per part, such as `80 train, 20 test images`."""
    counts = Counter(parts)
    return ", ".join(f"{counts[part]:,} {part}" for part in PARTS if counts[part]) + " images"


def _parts_in_paths(rows: list[ImageRecord]) -> list[str]:
    return sorted({part for row in rows for folder in row.path.split("/")[:-1] if (part := part_of(folder))})


# -- rows --------------------------------------------------------------------------------------------------------------


def _require_labels(table: _Table, classes: ClassMap) -> None:
    unknown = [row for row in table.rows if classes.label_of(row.fields["label"]) is None]
    if not unknown:
        return
    values = list(dict.fromkeys(row.fields["label"] for row in table.rows if row.fields["label"]))
    # With few different labels, many of them unknown, a class map is missing; otherwise single rows are wrong.
    if 1 < len(values) <= 12 and len(unknown) * 10 >= len(table.rows):
        times = Counter(row.fields["label"] for row in unknown)
        raise_data_errors(
            [f"{value!r} in {plural(n, 'row')}" for value, n in times.items()],
            f"These labels of the manifest are not {classes.names()}.",
            map_advice(values),
        )
    raise_data_errors(
        [f"line {row.line}: {row.fields['label']!r}" for row in unknown],
        f"The label of these rows of the manifest is not {classes.names()}.",
    )


def _rows(
    file: Path,
    root: Path,
    table: _Table,
    classes: ClassMap,
    parts: list[str],
    ignored: set[str],
    must_exist: bool,
) -> list[ImageRecord]:
    rows: list[ImageRecord] = []
    leaving: list[str] = []
    missing: list[str] = []
    no_case: list[str] = []
    placeholders: list[str] = []
    rounded: list[str] = []
    more = [name for name in (*OPTIONAL_COLUMNS, *([] if must_exist else [ID])) if name not in ignored]
    for row, part in zip(table.rows, parts, strict=True):
        given, case = row.fields["path"], row.fields["case"]
        path, exists = _path(given, root, file.parent) if must_exist else (_as_name(given), bool(given))
        if path is None:
            leaving.append(f"line {row.line}: {given!r}")
        elif not exists:
            missing.append(f"line {row.line}: {given}")
        if not case:
            no_case.append(f"line {row.line}: {given}")
        elif is_placeholder(case):
            placeholders.append(f"line {row.line}: {case!r}")
        elif is_rounded_number(case):
            rounded.append(f"line {row.line}: {case!r}")
        label = classes.label_of(row.fields["label"])
        rows.append(
            ImageRecord(path or "", label or 0, case, part=part, **{name: row.fields.get(name, "") for name in more})
        )
    elsewhere = "If the images are in another folder, give it with --image-root."
    if any(re.match(r"[A-Za-z]:[\\/]|\\\\", row.fields["path"]) for row in table.rows):
        elsewhere = (
            "Paths with a drive letter or a server of Windows cannot be found here. Write paths relative to the folder "
            "of the images, and give this folder with --image-root."
        )
    raise_data_errors(leaving, f"These paths of the manifest are outside the image folder {root}.", elsewhere)
    raise_data_errors(no_case, "These rows of the manifest have no case. Fill in the column case.")
    raise_data_errors(placeholders, PLACEHOLDER_RULE)
    raise_data_errors(
        rounded,
        "A spreadsheet rounded these cases, so that several patients may have the same one.",
        "Format the column case as text in the spreadsheet, enter the full numbers, and save the file again.",
    )
    raise_data_errors(missing, f"These files of the manifest do not exist in {root}.", elsewhere)
    times = Counter(row.path for row in rows)
    raise_data_errors(
        [path for path, n in times.items() if n > 1],
        "The manifest lists these files more than once. Keep one row per file.",
    )
    return rows


def _as_name(given: str) -> str:
    """Return a path that need not exist, with slashes, and without `.` and `./`."""
    return os.path.normpath(given.replace("\\", "/")) if given else ""


def _path(given: str, root: Path, folder: Path) -> tuple[str | None, bool]:
    """Return a path relative to the root (None if it is outside), and whether the file exists.

    A relative path is first resolved from the root, then from the folder of the manifest. If the file does not exist,
    backslashes are replaced by slashes (for Windows paths), and accented letters of each folder and of the file are
    composed or decomposed.

    Args:
        given: Path as written in the manifest.
        root: Folder that must contain the images.
        folder: Folder of the manifest.
    """
    inside: str | None = None
    plain = given.replace("\\", "/")
    for text in dict.fromkeys((given, plain)) if given else ():
        for base in dict.fromkeys((root, folder)):
            path = _relative(os.path.normpath(os.path.join(base, text)), root)  # noqa: PTH118
            if path is not None:
                found = path if os.path.lexists(root / path) else _as_on_disk(root, path)
                if found:
                    return found, True
                inside = inside or path
    return inside, False


def _as_on_disk(root: Path, path: str) -> str:
    """Return a path with the accented letters of its folders and file as on the disk; empty if it does not exist."""
    found = PurePosixPath()
    for name in PurePosixPath(path).parts:
        spelt = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
        there = [each for each in spelt if os.path.lexists(root / found / each)]
        if not there:
            return ""
        found /= there[0]
    return str(found)


def _relative(path: str, root: Path) -> str | None:
    """Return a path relative to the root, after resolving links to folders if necessary; None if it is outside."""
    for one, other in ((Path(os.path.abspath(path)), Path(os.path.abspath(root))), _resolved(path, root)):  # noqa: PTH100
        if one != other and one.is_relative_to(other):
            return PurePosixPath(one.relative_to(other)).as_posix()
    return None


def _resolved(path: str, root: Path) -> tuple[Path, Path]:
    """Resolve links in the folders of both paths, but not a link that is the image itself."""
    there = Path(path)
    try:
        return there.parent.resolve() / there.name, root.resolve()
    except (OSError, ValueError):  # the path is invalid
        return there, root
