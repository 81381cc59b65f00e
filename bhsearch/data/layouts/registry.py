"""Layouts by name: detection from file names, and reading without opening an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bhsearch.data.images.decode import IMAGE_SUFFIXES
from bhsearch.data.images.files import Images, describe_left_out, find_images
from bhsearch.data.layouts import breakhis, idc
from bhsearch.data.layouts.class_names import class_like_folders, folder_classes, map_advice
from bhsearch.data.layouts.folders import begins_with_part, from_breakhis_name, labels_of, read_folders, with_parts
from bhsearch.data.layouts.listing import ImageRecord, Listing, named, raise_data_errors, require_both_classes
from bhsearch.data.layouts.manifest import PLACEHOLDER_RULE, SUFFIXES, read_manifest
from bhsearch.data.layouts.naming import folded, is_placeholder
from bhsearch.errors import DataError, SettingsError

LAYOUTS = {
    "breakhis": f"anything above files named {breakhis.GRAMMAR}",
    "idc": idc.GRAMMAR,
    "folders": "benign|malignant/* at any depth, train|validation|test or <patient> above them; else --class-map",
    "manifest": "a CSV file with the columns path,label,case[,slide,subtype,magnification,split]",
}


def read(
    data: Path,
    *,
    layout: str = "auto",
    case_pattern: str | None = None,
    class_map: Sequence[str] = (),
    ignore_columns: Sequence[str] = (),
    image_root: Path | None = None,
) -> Listing:
    """List the images of a data set with the fields that their names give.

    Args:
        data: Folder of images, or a manifest.
        layout: A key of `LAYOUTS`, or `auto` to detect the layout.
        case_pattern: Only for `folders`: regular expression, searched in the path relative to `data`, whose group
            `case` (or first group) is the case of an image without a BreakHis name.
        class_map: Only for `folders` and `manifest`: `benign=NAME` or `malignant=NAME`, one name each.
        ignore_columns: Columns of a manifest, or folders that look like parts of a division, to ignore.
        image_root: Only for `manifest`: folder that contains the images.

    Raises:
        DataError: If the layout is unknown, there are no images, or names, labels, cases or parts cannot be used.
        SettingsError: If an option cannot be used.
    """
    layout = _checked_layout(data, layout)
    images = Images(()) if layout == "manifest" else find_images(data)
    if layout != "manifest" and not images.paths:
        raise DataError(_no_images(data, images))
    if layout == "auto":
        layout = _detected(data, images, class_map)
    _check_options(layout, case_pattern, class_map, image_root)
    if layout == "manifest":
        listing = read_manifest(data, class_map=class_map, ignore_columns=ignore_columns, image_root=image_root)
    else:
        listing = _read_tree(data, layout, images, case_pattern, class_map, ignore_columns)
    require_both_classes(row.label for row in listing.rows)
    if listing.has_cases:
        raise_data_errors(
            [f"{row.path}: {row.case!r}" for row in listing.rows if is_placeholder(row.case)], PLACEHOLDER_RULE
        )
    return listing


def detect(data: Path, class_map: Sequence[str] = ()) -> str:
    """Detect the layout from file names.

    Args:
        data: Folder of images, or a manifest.
        class_map: See `read`.

    Raises:
        DataError: If there are no images, or no layout fits.
    """
    if data.is_file() and data.suffix.lower() in SUFFIXES:
        return "manifest"
    images = find_images(data)
    if not images.paths:
        raise DataError(_no_images(data, images))
    return _detected(data, images, class_map)


def _checked_layout(data: Path, layout: str) -> str:
    """Return the layout, `manifest` instead of `auto` for a CSV file, if it is known and fits the kind of `data`."""
    if layout != "auto" and layout not in LAYOUTS:
        raise DataError(f"The layout must be auto or one of these, but got {layout!r}:\n{_known_layouts()}")
    try:
        data.stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"The data must be a folder or a manifest, but got {data}: {reason}.") from error
    if data.is_dir():
        if layout == "manifest":
            raise DataError(f"A manifest must be a CSV file, but {data} is a folder. Give the path of the file.")
        return layout
    if layout == "auto" and data.suffix.lower() in SUFFIXES:
        return "manifest"
    if layout != "manifest":
        raise DataError(f"The data must be a folder or a manifest (.csv), but got the file {data}.")
    return layout


def _check_options(layout: str, case_pattern: str | None, class_map: Sequence[str], image_root: Path | None) -> None:
    if case_pattern is not None and layout != "folders":
        raise SettingsError(
            f"--case-pattern requires the layout folders, but the layout is {layout}, which names cases itself."
        )
    if class_map and layout not in ("folders", "manifest"):
        raise SettingsError(
            f"--class-map requires the layout folders or manifest, but the layout is {layout}, which names classes."
        )
    if image_root is not None and layout != "manifest":
        raise SettingsError(f"--image-root requires the layout manifest, but the layout is {layout}.")


def _detected(data: Path, images: Images, class_map: Sequence[str]) -> str:
    paths = images.paths
    if class_map:
        return "folders"
    classes = folder_classes()
    if any(begins_with_part(path, classes) for path in paths):
        return "folders"
    names = [breakhis.looks_like(path.rpartition("/")[2]) for path in paths]
    original = any("SOB" in path.split("/")[:-1] for path in paths)  # the published tree has breast/benign/SOB/...
    if all(names) or (any(names) and original):
        return "breakhis"
    if any(labels_of(path, classes) for path in paths):
        return "folders"
    if any(names):
        return "breakhis"
    if any(idc.patient_of(path.rpartition("/")[2]) for path in paths):
        return "idc"
    seen = class_like_folders(paths)
    looks = f"The folders that look like classes are {named(seen, 12)}.\n{map_advice(seen)}\n" if len(seen) > 1 else ""
    raise DataError(
        f"The images must have a known layout, but the {len(paths):,} images in {data} have none, for example "
        f"{paths[0]}. {looks}Known layouts:\n"
        f"{_known_layouts()}"
    )


def _read_tree(
    data: Path,
    layout: str,
    images: Images,
    case_pattern: str | None,
    class_map: Sequence[str],
    ignore_columns: Sequence[str],
) -> Listing:
    has_cases, notes = True, []
    if layout == "folders":
        tree = read_folders(images.paths, case_pattern, class_map)
        rows, has_cases, notes = tree.rows, tree.has_cases, tree.notes
    else:
        rows = _read_breakhis(images.paths) if layout == "breakhis" else idc.read_idc(images.paths)
    rows, on_parts = with_parts(rows, [folded(name) for name in ignore_columns])
    if ignore_columns:
        on_parts.append(f"Ignored on request: {', '.join(ignore_columns)}.")
    rows.sort(key=lambda row: row.path)
    return Listing(data, layout, tuple(rows), has_cases, images.bad, images.left_out, (*on_parts, *notes))


def _read_breakhis(paths: Sequence[str]) -> list[ImageRecord]:
    problems: list[str] = []
    rows = [from_breakhis_name(path, problems) for path in paths]
    raise_data_errors(problems, breakhis.grammar_hint())
    return [row for row in rows if row is not None]


def _known_layouts() -> str:
    return "\n".join(f"  {name}: {shape}" for name, shape in LAYOUTS.items())


def _no_images(data: Path, images: Images) -> str:
    left_out = f"; {describe_left_out(images.left_out)}" if images.left_out else ""
    return f"The data must contain images, but {data} has none (suffixes: {', '.join(IMAGE_SUFFIXES)}){left_out}."
