"""The layout `folders`, in which folders name class, part and patient; and parts named by folders in all layouts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bhsearch.data.images.files import Images
from bhsearch.data.layouts import breakhis
from bhsearch.data.layouts.base import LayoutOptions
from bhsearch.data.layouts.class_names import ClassMap, class_like_folders, folder_classes, map_advice
from bhsearch.data.layouts.listing import ImageRecord, Listing, raise_data_errors
from bhsearch.data.layouts.manifest import counted_parts
from bhsearch.data.layouts.naming import folded, is_division_folder, is_placeholder, part_of
from bhsearch.errors import DataError, SettingsError
from bhsearch.text import named, plural, verb

_MAGNIFICATION = re.compile(r"(?:x[ _-]*)?[0-9]+(?:[.,][0-9]+)?[ _-]*(?:x|px|um|µm|mpp)?|[0-9]+[ _-]*x[ _-]*[0-9]+")
# Words in the names of numbered folders that are not patients, such as "batch 3" or "level1".
_NOT_PATIENTS = re.compile(
    r"batch|center|centre|fold|grade|hospital|image|imgs?|images|level|lab|magnification|mag|part|patch|patches|px|scale|"
    r"scanner|series|set|site|size|slides|stain|tile|tiles|version|year|zoom"
)
# Numbers of magnifications, image sides in pixels and years. If all folder names are among these numbers, the folders
# are not patients.
_USUAL_NUMBERS = frozenset(
    (
        *(1, 2, 4, 5, 10, 20, 25, 40, 50, 60, 63, 100, 150, 200, 250, 300, 400, 500),
        *range(1990, 2041),
        32,
        48,
        64,
        96,
        128,
        192,
        224,
        256,
        299,
        320,
        384,
        448,
        512,
        768,
        1024,
        2048,
    )
)
_MIN_PATIENTS = 4


@dataclass(frozen=True)
class Tree:
    """Records of images, read from the names in a folder tree.

    Attributes:
        rows: One record per image.
        has_cases: Whether the case of every image is known.
        notes: Sentences about how the folders were read.
    """

    rows: list[ImageRecord]
    has_cases: bool
    notes: list[str]


def labels_of(path: str, classes: ClassMap) -> dict[int, int]:
    """Return the labels of the class folders in a path, by depth of the folder; the top folder has depth 0."""
    found = {at: classes.label_of(folder) for at, folder in enumerate(path.split("/")[:-1])}
    return {at: label for at, label in found.items() if label is not None}


def begins_with_part(path: str, classes: ClassMap) -> bool:
    """Return whether a path has the form `<part>/<class>/...`."""
    folders = path.split("/")[:-1]
    return len(folders) > 1 and part_of(folders[0]) is not None and classes.label_of(folders[1]) is not None


# -- parts -------------------------------------------------------------------------------------------------------------


def with_parts(rows: list[ImageRecord], ignored: Sequence[str]) -> tuple[list[ImageRecord], list[str]]:
    """Add to each record the part that a folder at any depth names.

    Args:
        rows: Records without parts.
        ignored: Folded names of folders to ignore, with or without a trailing number.

    Returns:
        Records with parts, and sentences about the parts.

    Raises:
        DataError: If an image is in several parts; if some but not all images are in a part; or if folders such as
            `fold1` and `fold2` divide the images in an unknown way.
        SettingsError: If a name in `ignored` matches no folder.
    """
    above = {row.path: row.path.rpartition("/")[0] for row in rows}
    named_in: dict[str, list[str]] = {}
    divisions: set[str] = set()
    places = dict.fromkeys(above.values())
    _require_known(ignored, {folder for place in places for folder in place.split("/")})
    for place in places:
        folders = [folder for folder in place.split("/") if not _is_ignored(folder, ignored)]
        named_in[place] = list(dict.fromkeys(part for folder in folders if (part := part_of(folder))))
        divisions.update(folder for folder in folders if is_division_folder(folder))
    several = [path for path, place in above.items() if len(named_in[place]) > 1]
    loose = [path for path, place in above.items() if not named_in[place]]
    parts = [(named_in[above[row.path]] or [""])[0] for row in rows]
    if len(divisions) > 1:
        first = min(divisions)
        word = re.sub(r"[ _.-]*[0-9]*$", "", first) or first
        raise DataError(
            f"The folders {named(sorted(divisions))} look like a split of the data, but only the names train, "
            "validation and test are known. Give one of these folders as --data, write a manifest with a column "
            f"split, or ignore these folders with --ignore-column {word}."
        )
    raise_data_errors(several, "These images are in folders of several parts of the split (train, validation, test).")
    present = set(parts) - {""}
    if present:
        raise_data_errors(
            loose,
            f"The folders {', '.join(sorted(present))} form a predefined split, but some images are in none of "
            "them. Move these images, or make a new split with --ignore-predefined-split.",
        )
    if len(present) == 1:
        return rows, [f"All images are in {present.pop()}, so there is no predefined split."]
    notes = [f"The predefined split is taken from the folders: {counted_parts(parts)}."] if present else []
    return [replace(row, part=part) for row, part in zip(rows, parts, strict=True)] if present else rows, notes


def _require_known(ignored: Sequence[str], folders: set[str]) -> None:
    unknown = [word for word in ignored if not any(_is_ignored(folder, [word]) for folder in folders)]
    if unknown:
        raise SettingsError(
            f"--ignore-column must name a folder or a manifest column, but no folder is named {named(unknown)}."
        )


def _is_ignored(folder: str, ignored: Sequence[str]) -> bool:
    key = folded(folder)
    return any(key == word or re.fullmatch(rf"{re.escape(word)}[ _.-]*[0-9a-z]{{0,3}}", key) for word in ignored)


def tree_listing(
    root: Path,
    layout: str,
    rows: list[ImageRecord],
    images: Images,
    options: LayoutOptions,
    has_cases: bool = True,
    notes: Sequence[str] = (),
) -> Listing:
    """Return the listing of a folder tree of images, including the parts named by folders.

    Args:
        root: Data folder.
        layout: Name of the layout.
        rows: Records of the images, without parts.
        images: Images below the folder.
        options: Options given by the user.
        has_cases: Whether the case of every image is known.
        notes: Sentences about how the folders were read.

    Raises:
        DataError: See `with_parts`.
        SettingsError: See `with_parts`.
    """
    rows, on_parts = with_parts(rows, [folded(name) for name in options.ignore_columns])
    if options.ignore_columns:
        on_parts.append(f"Ignored on request: {', '.join(options.ignore_columns)}.")
    rows.sort(key=lambda row: row.path)
    return Listing(root, layout, tuple(rows), has_cases, images.bad, images.left_out, (*on_parts, *notes))


class Folders:
    """Layout in which folders at any depth name the class of their images."""

    pattern = "benign|malignant/* at any depth, train|validation|test or <patient> above them; else --class-map"
    options = frozenset({"case_pattern", "class_map"})
    is_file = False
    names_dataset = False

    def detect(self, paths: Sequence[str], options: LayoutOptions) -> float:
        """Return the confidence that a folder has this layout; see `Layout.detect`.

        The confidence is 1 if a class map is given, high if class folders are directly below folders of parts, and
        medium for other class folders.
        """
        if options.class_map:
            return 1.0
        classes = folder_classes()
        if any(begins_with_part(path, classes) for path in paths):
            return 0.9
        return 0.6 if any(labels_of(path, classes) for path in paths) else 0.0

    def read(self, data: Path, images: Images, options: LayoutOptions) -> Listing:
        """List the images; see `Layout.read`."""
        tree = read_folders(images.paths, options.case_pattern, options.class_map)
        return tree_listing(data, "folders", tree.rows, images, options, tree.has_cases, tree.notes)


LAYOUT = Folders()


# -- the layout folders ------------------------------------------------------------------------------------------------


def read_folders(paths: Sequence[str], case_pattern: str | None, class_map: Sequence[str]) -> Tree:
    """Read the records of images whose class is named by a folder at any depth.

    Args:
        paths: Paths of the images, relative to the data folder.
        case_pattern: Regular expression whose group matches the case in a path; None without a pattern.
        class_map: See `class_names.folder_classes`.

    Raises:
        DataError: If an image is in no class folder or in folders of both classes, a BreakHis name is malformed or
            contradicts the folder, or the pattern does not match a path.
        SettingsError: If the pattern or the class map is invalid.
    """
    case_of = case_finder(case_pattern)
    classes = folder_classes(class_map)
    places = _class_depths(paths, classes)
    patients = {} if case_pattern is not None else _patients(paths, places)
    rows: list[ImageRecord] = []
    malformed: list[str] = []
    contradicting: list[str] = []
    unmatched: list[str] = []
    for path, (_, label) in zip(paths, places, strict=True):
        row: ImageRecord | None
        if breakhis.looks_like(path.rpartition("/")[2]):
            row = from_breakhis_name(path, malformed)
            if row is not None and row.label != label:
                contradicting.append(path)
        else:
            case = case_of(path)
            if case == "":
                unmatched.append(path)
            row = ImageRecord(path, label, patients.get(path, path) if case is None else case)
        if row is not None:
            rows.append(row)
    raise_data_errors(malformed, breakhis.grammar_hint())
    raise_data_errors(contradicting, "The BreakHis file name and the folder disagree on the class of these images.")
    raise_data_errors(unmatched, f"--case-pattern {case_pattern} does not match these paths.")
    by_name = all(breakhis.looks_like(row.path.rpartition("/")[2]) for row in rows)
    return Tree(
        rows,
        case_pattern is not None or bool(patients) or by_name,
        _notes_on_folders(paths, places, patients, case_pattern),
    )


def _class_depths(paths: Sequence[str], classes: ClassMap) -> list[tuple[int, int]]:
    """Return the depth and the label of the class folder of each path.

    If classes are numbers, folders of patients may have the same names as class folders. In this case, the class folder
    is at the depth, counted from the file, at which every path has a folder with a class name.

    Raises:
        DataError: If a path has no class folder, or folders of both classes.
    """
    found = [labels_of(path, classes) for path in paths]
    elsewhere = [path for path, labels in zip(paths, found, strict=True) if not labels]
    if elsewhere:
        raise DataError(_no_class(paths, elsewhere, classes))
    from_file = set.intersection(
        *({at - path.count("/") for at in labels} for path, labels in zip(paths, found, strict=True))
    )
    places, contradicting = [], []
    for path, labels in zip(paths, found, strict=True):
        folders = path.split("/")
        numeric = all(folders[at].isdecimal() for at in labels)
        at = max(labels) if not (numeric and from_file) else path.count("/") + max(from_file)
        if len(set(labels.values())) > 1 and not (numeric and from_file):
            contradicting.append(path)
        places.append((at, labels[at]))
    raise_data_errors(contradicting, "These images are in folders of both classes.")
    return places


def _no_class(paths: Sequence[str], elsewhere: list[str], classes: ClassMap) -> str:
    seen = class_like_folders(paths)
    looks = f" The folders that look like classes are {named(seen, 12)}.\n{map_advice(seen)}" if seen else ""
    return (
        "In the layout folders, the folder of an image must name its class, but "
        f"{len(elsewhere):,} of {plural(len(paths), 'image')} {verb(len(elsewhere), 'is', 'are')} in no class "
        f"folder ({classes.names()}), such as "
        f"{elsewhere[0]}.{looks}"
    )


def _patients(paths: Sequence[str], places: list[tuple[int, int]]) -> dict[str, str]:
    """Return the case by path if the folders above the class folders are patients, otherwise an empty dictionary.

    The folders are patients if there are at least four different names, each name contains a number, and no name looks
    like a magnification, size, year, batch or similar. Folders of parts are ignored.
    """
    cases = {}
    for path, (at, _) in zip(paths, places, strict=True):
        above = [folder for folder in path.split("/")[:at] if part_of(folder) is None]
        if not above or not _is_patient(above[-1]):
            return {}
        cases[path] = above[-1]
    names = set(cases.values())
    usual = all(name.isdecimal() and int(name) in _USUAL_NUMBERS for name in names)
    return cases if len(names) >= _MIN_PATIENTS and not usual else {}


def _is_patient(folder: str) -> bool:
    key = folded(folder)
    words = re.findall(r"[^\W\d_]+", key)
    if not re.search(r"[0-9]", key) or is_division_folder(folder) or is_placeholder(folder):
        return False
    return not any(_NOT_PATIENTS.fullmatch(word) for word in words) and not (words and _MAGNIFICATION.fullmatch(key))


def _notes_on_folders(
    paths: Sequence[str], places: list[tuple[int, int]], patients: dict[str, str], case_pattern: str | None
) -> list[str]:
    if patients:
        cases = list(dict.fromkeys(patients.values()))
        return [
            f"The folder above the class folder is used as the case: {len(cases):,} cases, such as {named(cases, 3)}. "
            "If this is wrong, use --case-pattern."
        ]
    if case_pattern is not None:
        return []
    above = [
        [f for f in path.split("/")[:at] if part_of(f) is None] for path, (at, _) in zip(paths, places, strict=True)
    ]
    unused = dict.fromkeys(folder for folders in above for folder in folders)
    if len({tuple(folders) for folders in above}) < 2:
        return []
    return [
        f"The folders above the class folders are not used: {named(unused)}. Read cases from paths by --case-pattern."
    ]


# -- names -------------------------------------------------------------------------------------------------------------


def from_breakhis_name(path: str, problems: list[str]) -> ImageRecord | None:
    """Return the record of an image with a BreakHis name; for a malformed name, extend `problems` and return None."""
    try:
        name = breakhis.parse(path.rpartition("/")[2])
    except DataError:
        problems.append(path)
        return None
    magnification = breakhis.magnification_key(name.magnification)
    return ImageRecord(path, name.label, name.case, name.slide_key, name.subtype, magnification)


def case_finder(pattern: str | None) -> Callable[[str], str | None]:
    """Return a function that finds the case in a path by a regular expression.

    The function returns None if there is no pattern, and an empty string if the pattern does not match the path.

    Raises:
        SettingsError: If the pattern is not a regular expression, or has no group.
    """
    if pattern is None:
        return lambda _: None
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise SettingsError(f"--case-pattern must be a regular expression, but got {pattern!r}: {error}.") from error
    if expression.groups == 0:
        raise SettingsError(f"--case-pattern must have a group, such as '(?P<case>[0-9]+)_', but got {pattern!r}.")
    group: str | int = "case" if "case" in expression.groupindex else 1

    def find(path: str) -> str:
        match = expression.search(path)
        return "" if match is None else match[group] or ""

    return find
