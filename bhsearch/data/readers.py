"""Readers: from a folder's names, or a manifest, to what is known of each image; no image is opened here."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from bhsearch.data import breakhis
from bhsearch.data.decode import IMAGE_SUFFIXES
from bhsearch.data.index import CLASS_NAMES, BadFile
from bhsearch.errors import DataError, SettingsError, listed

LAYOUTS = {
    "breakhis": f"anything above files named {breakhis.GRAMMAR}",
    "idc": "<patient>/<0|1>/<patient>_idx5_x<X>_y<Y>_class<0|1>.png",
    "folders": "benign|malignant/*, or train|validation/benign|malignant/*",
    "manifest": "a CSV file with the columns path,label,case[,slide,subtype,magnification]",
}
PARTS = ("train", "validation")
REQUIRED_COLUMNS = ("path", "label", "case")
OPTIONAL_COLUMNS = ("slide", "subtype", "magnification")

_IDC_NAME = re.compile(r"(?P<patient>[^/]+)_idx[0-9]+_x[0-9]+_y[0-9]+_class(?P<label>[01])\.png", re.IGNORECASE)
_LABELS = {"0": 0, "1": 1, "benign": 0, "malignant": 1}


@dataclass(frozen=True)
class Found:
    """What names say of one image; empty strings where they say nothing. Fields as in `Index.table`."""

    path: str
    label: int
    case: str
    slide: str = ""
    subtype: str = ""
    magnification: str = ""
    part: str = ""


@dataclass(frozen=True)
class Listing:
    """What a reader makes of a data set.

    Attributes:
        root: Folder that the paths are relative to.
        layout: The reader.
        rows: One per image.
        has_cases: Whether every image's case is known.
        bad: What lies there and cannot be read, such as links to folders elsewhere.
    """

    root: Path
    layout: str
    rows: tuple[Found, ...]
    has_cases: bool = True
    bad: tuple[BadFile, ...] = ()


def read(data: Path, *, layout: str = "auto", case_pattern: str | None = None) -> Listing:
    """List the images of a data set with what their names say.

    Args:
        data: Folder of images, or a manifest.
        layout: A key of `LAYOUTS`, or `auto` to choose by looking.
        case_pattern: Only for `folders`: regular expression, searched in the path relative to `data`, whose group
            `case` (or first group) is the case of an image that has no BreakHis name.

    Raises:
        DataError: If the layout is unknown, there are no images, or their names, labels or cases cannot be used.
        SettingsError: If the pattern cannot be used.
    """
    layout = _checked_layout(data, layout)
    paths, bad = ([], []) if layout == "manifest" else find_images(data)
    if layout == "auto":
        layout = detect(data, paths)
    if case_pattern is not None and layout != "folders":
        raise SettingsError(f"--case-pattern belongs to the layout folders; the layout {layout} names its own cases.")
    has_cases = True
    if layout == "manifest":
        rows = _read_manifest(data)
    elif layout == "folders":
        rows, has_cases = _read_folders(paths, case_pattern)
    else:
        rows = (_read_breakhis if layout == "breakhis" else _read_idc)(paths)
    if not rows:
        raise DataError(_no_images(data))
    require_both_classes(row.label for row in rows)
    root = data.parent if layout == "manifest" else data
    return Listing(root, layout, tuple(sorted(rows, key=lambda row: row.path)), has_cases, tuple(bad))


def _checked_layout(data: Path, layout: str) -> str:
    """The layout, `manifest` instead of `auto` for a CSV file, if it is known and fits what `data` is."""
    if layout != "auto" and layout not in LAYOUTS:
        raise DataError(f"the layout must be auto or one of these, but got {layout!r}:\n{_known_layouts()}")
    try:
        data.stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"the data must be a folder or a manifest, but got {data}: {reason}.") from error
    if data.is_dir():
        if layout == "manifest":
            raise DataError(f"a manifest is a CSV file, but {data} is a folder: give the path of the file.")
        return layout
    if layout == "auto" and data.suffix.lower() == ".csv":
        return "manifest"
    if layout != "manifest":
        raise DataError(f"the data must be a folder, or a manifest (.csv), but got the file {data}.")
    return layout


def require_both_classes(labels: Iterable[int], where: str = "") -> None:
    """Raise DataError unless there are benign and malignant images."""
    present = set(labels)
    if present != {0, 1}:
        only = ", ".join(CLASS_NAMES[label] for label in sorted(present)) or "none"
        raise DataError(f"benign and malignant images are both needed, but{where} the only class is: {only}.")


def find_images(root: Path) -> tuple[list[str], list[BadFile]]:
    """Find the images under a folder by their suffix, hidden files and `__MACOSX` left out.

    Returns:
        Paths relative to `root`, sorted; and what cannot be used: names that are not UTF-8, empty folders that are
        called like images, and links to folders outside `root`, which are not followed, unlike those to files. Links
        to folders inside it are passed over, since what they lead to is found anyway.

    Raises:
        DataError: If a folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise DataError(f"every folder must be readable, but {error.filename}: {(error.strerror or '').lower()}.")

    found: list[str] = []
    bad: list[BadFile] = []
    real_root = root.resolve()
    for folder, folders, files in os.walk(root, onerror=fail):
        if not folders and not files and folder.lower().endswith(IMAGE_SUFFIXES):
            bad.append(BadFile(Path(folder).relative_to(root).as_posix(), "an empty folder"))
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        prefix = PurePosixPath(Path(folder).relative_to(root).as_posix())
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                path = str(prefix / name)
                readable = path.encode(errors="replace").decode()
                if path == readable:
                    found.append(path)
                else:
                    bad.append(BadFile(readable, "its name is not UTF-8"))
        for name in folders:
            link = Path(folder, name)
            if link.is_symlink() and not link.resolve().is_relative_to(real_root):
                bad.append(BadFile(str(prefix / name), "a link to a folder outside the data folder"))
    return sorted(found), sorted(bad, key=lambda file: file.path)


def detect(data: Path, paths: list[str] | None = None) -> str:
    """Choose a layout by looking at the names.

    Args:
        data: Folder of images, or a manifest.
        paths: What `find_images(data)` found, if it is known already.

    Raises:
        DataError: If there are no images, or no layout fits.
    """
    if data.is_file() and data.suffix.lower() == ".csv":
        return "manifest"
    paths = find_images(data)[0] if paths is None else paths
    if not paths:
        raise DataError(_no_images(data))
    places = [_class_folder(path) for path in paths]
    if any(place is not None and place[0] for place in places):
        return "folders"
    named = [breakhis.looks_like(_name(path)) for path in paths]
    original = any("SOB" in path.split("/")[:-1] for path in paths)  # the published tree has breast/benign/SOB/...
    if all(named) or (any(named) and original):
        return "breakhis"
    if any(place is not None for place in places):
        return "folders"
    if any(named):
        return "breakhis"
    if any(_IDC_NAME.fullmatch(_name(path)) for path in paths):
        return "idc"
    raise DataError(
        f"the {len(paths):,} images under {data} lie in no known layout, for example {paths[0]}. Known are:\n"
        f"{_known_layouts()}"
    )


def _known_layouts() -> str:
    return "\n".join(f"  {name}: {shape}" for name, shape in LAYOUTS.items())


def _no_images(data: Path) -> str:
    return f"there must be images, but {data} holds none (looked for {', '.join(IMAGE_SUFFIXES)})."


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _complain(problems: list[str], rule: str) -> None:
    if problems:
        raise DataError(f"{rule} Wrong here ({len(problems):,}):\n{listed(problems)}")


def _read_breakhis(paths: list[str]) -> list[Found]:
    problems: list[str] = []
    rows = [_from_breakhis_name(path, problems) for path in paths]
    _complain(problems, breakhis.grammar_hint())
    return [row for row in rows if row is not None]


def _from_breakhis_name(path: str, problems: list[str], part: str = "") -> Found | None:
    try:
        name = breakhis.parse(_name(path))
    except DataError:
        problems.append(path)
        return None
    magnification = breakhis.magnification_key(name.magnification)
    return Found(path, name.label, name.case, name.slide_key, name.subtype, magnification, part)


def _read_idc(paths: list[str]) -> list[Found]:
    rows, problems = [], []
    for path in paths:
        match = _IDC_NAME.fullmatch(_name(path))
        *above, folder = PurePosixPath(path).parts[:-1] or ("",)
        patient = above[-1] if above else None  # unknown when the data folder is a patient's own
        if match is None:
            problems.append(path)
        elif folder != match["label"]:
            problems.append(f"{path} (the folder is {folder or 'missing'}, the name says class{match['label']})")
        elif patient not in (None, match["patient"]):
            problems.append(f"{path} (the folder's patient is {patient}, the name's {match['patient']})")
        else:
            rows.append(Found(path, int(match["label"]), match["patient"], match["patient"]))
    _complain(problems, f"IDC files are {LAYOUTS['idc']}.")
    return rows


def _class_folder(path: str) -> tuple[str, int] | None:
    """Part (may be empty) and label that the folders of a path say, or None; upper and lower case are the same."""
    folders = [folder.lower() for folder in path.split("/")[:-1]]
    part = folders.pop(0) if folders and folders[0] in PARTS else ""
    return (part, CLASS_NAMES.index(folders[0])) if folders and folders[0] in CLASS_NAMES else None


def _read_folders(paths: list[str], case_pattern: str | None) -> tuple[list[Found], bool]:
    case_of = case_finder(case_pattern)
    rows: list[Found] = []
    elsewhere: list[str] = []
    malformed: list[str] = []
    contradicting: list[str] = []
    unmatched: list[str] = []
    for path in paths:
        place = _class_folder(path)
        if place is None:
            elsewhere.append(path)
            continue
        part, label = place
        if breakhis.looks_like(_name(path)):
            row = _from_breakhis_name(path, malformed, part)
            if row is not None and row.label != label:
                contradicting.append(path)
        else:
            case = case_of(path)
            if case == "":
                unmatched.append(path)
            row = Found(path, label, path if case is None else case, part=part)
        if row is not None:
            rows.append(row)
    _complain(elsewhere, f"In the layout folders, images lie in {LAYOUTS['folders']}.")
    _complain(malformed, breakhis.grammar_hint())
    _complain(contradicting, "A BreakHis name and the folder it lies in must name the same class.")
    _complain(unmatched, f"--case-pattern {case_pattern} must find a case in every path.")
    loose = [row.path for row in rows if not row.part]
    if len(loose) < len(rows):
        _complain(loose, "Where there is train/ or validation/, every image must lie in one of them.")
    if {row.part for row in rows} != set(PARTS):
        rows = [replace(row, part="") for row in rows]  # one part alone divides nothing
    has_cases = case_pattern is not None or all(breakhis.looks_like(_name(row.path)) for row in rows)
    return rows, has_cases


def case_finder(pattern: str | None) -> Callable[[str], str | None]:
    """A function from path to case: None without a pattern, an empty string where the pattern finds nothing.

    Raises:
        SettingsError: If the pattern is no regular expression, or holds no group.
    """
    if pattern is None:
        return lambda _: None
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise SettingsError(f"--case-pattern must be a regular expression, but got {pattern!r}: {error}.") from error
    if expression.groups == 0:
        raise SettingsError(f"--case-pattern must hold a group, such as '(?P<case>[0-9]+)_', but got {pattern!r}.")
    group: str | int = "case" if "case" in expression.groupindex else 1

    def find(path: str) -> str:
        match = expression.search(path)
        return "" if match is None else match[group] or ""

    return find


def _read_manifest(file: Path) -> list[Found]:
    rows: list[Found] = []
    leaving: list[str] = []
    missing: list[str] = []
    unknown: list[str] = []
    no_case: list[str] = []
    for line, record in _records(file):
        path = PurePosixPath(Path(os.path.normpath(record["path"])).as_posix())
        label = _LABELS.get(record["label"].lower())
        if not record["path"] or path.is_absolute() or Path(path).drive or ".." in path.parts:
            leaving.append(f"line {line}: {record['path']!r}")
        elif not os.path.lexists(file.parent / path):
            missing.append(f"line {line}: {record['path']}")
        if label is None:
            unknown.append(f"line {line}: {record['label']!r}")
        if not record["case"]:
            no_case.append(f"line {line}: {record['path']}")
        more = {name: record.get(name, "") for name in OPTIONAL_COLUMNS}
        rows.append(Found(str(path), label or 0, record["case"], **more))
    _complain(leaving, f"The paths of a manifest must stay in its folder, {file.parent}.")
    _complain(unknown, f"The labels of a manifest must be {', '.join(_LABELS)}.")
    _complain(no_case, "Every row of a manifest must name its case.")
    _complain(missing, f"The files of a manifest must exist under {file.parent}.")
    times = Counter(row.path for row in rows)
    _complain([path for path, n in times.items() if n > 1], "A manifest must name a file once.")
    return rows


def _records(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and fields, stripped; fields that a short row lacks are empty."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True, restval="")
            reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            lacking = [name for name in REQUIRED_COLUMNS if name not in reader.fieldnames]
            if lacking:
                raise DataError(
                    f"a manifest needs the columns {', '.join(REQUIRED_COLUMNS)}, but {file} lacks "
                    f"{', '.join(lacking)}; it has {', '.join(reader.fieldnames) or 'none'}."
                )
            return [
                (reader.line_num, {name: value.strip() for name, value in row.items() if isinstance(value, str)})
                for row in reader
            ]
    except OSError as error:
        raise DataError(f"a manifest must be readable, but {file}: {(error.strerror or '').lower()}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"a manifest must be CSV in UTF-8, but {file}: {error}.") from error
