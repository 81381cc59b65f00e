"""Read a data set by layout: choose or detect the layout, and list the images without opening them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bhsearch.data.images.decode import IMAGE_SUFFIXES
from bhsearch.data.images.files import Images, describe_left_out, find_images
from bhsearch.data.layouts.base import LAYOUTS, LayoutOptions
from bhsearch.data.layouts.class_names import class_like_folders, map_advice
from bhsearch.data.layouts.listing import Listing, named, raise_data_errors, require_both_classes
from bhsearch.data.layouts.manifest import PLACEHOLDER_RULE, SUFFIXES
from bhsearch.data.layouts.naming import is_placeholder
from bhsearch.errors import DataError, SettingsError

AUTO = "auto"
# Options that not every layout takes, and what the others do instead.
_OPTIONS = {
    "case_pattern": "names cases itself",
    "class_map": "names classes itself",
    "image_root": "has its images in the data folder",
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
    options = LayoutOptions(case_pattern, class_map, ignore_columns, image_root)
    layout = _checked_layout(data, layout)
    is_file = layout != AUTO and LAYOUTS.get(layout).is_file
    images = Images(()) if is_file else find_images(data)
    if not is_file and not images.paths:
        raise DataError(_no_images(data, images))
    if layout == AUTO:
        layout = _detected(data, images, options)
    _check_options(layout, options)
    listing = LAYOUTS.get(layout).read(data, images, options)
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
    return _detected(data, images, LayoutOptions(class_map=class_map))


def _checked_layout(data: Path, layout: str) -> str:
    """Return the layout, `manifest` instead of `auto` for a CSV file, if it is known and fits the kind of `data`."""
    if layout != AUTO and layout not in LAYOUTS:
        raise LAYOUTS.unknown(layout, (AUTO, *LAYOUTS), f" The layouts are:\n{_known_layouts()}")
    try:
        data.stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"The data must be a folder or a manifest, but got {data}: {reason}.") from error
    takes_file = layout != AUTO and LAYOUTS.get(layout).is_file
    if data.is_dir():
        if takes_file:
            raise DataError(f"A {layout} must be a file, but {data} is a folder. Give the path of the file.")
        return layout
    if layout == AUTO and data.suffix.lower() in SUFFIXES:
        return "manifest"
    if not takes_file:
        raise DataError(f"The data must be a folder or a manifest (.csv), but got the file {data}.")
    return layout


def _check_options(layout: str, options: LayoutOptions) -> None:
    for name, what in _OPTIONS.items():
        if getattr(options, name) and name not in LAYOUTS.get(layout).options:
            takers = [own for own in LAYOUTS.built_in if name in LAYOUTS.get(own).options]
            of = f"layout {takers[0]}" if len(takers) == 1 else f"layouts {' and '.join(takers)}"
            raise SettingsError(
                f"--{name.replace('_', '-')} requires the {of}, but the layout is {layout}, which {what}."
            )


def _detected(data: Path, images: Images, options: LayoutOptions) -> str:
    """Return the built-in layout with the highest confidence, without importing parts of other packages."""
    paths = images.paths
    confidence = {name: LAYOUTS.get(name).detect(paths, options) for name in LAYOUTS.built_in}
    best = max(confidence, key=lambda name: confidence[name])
    if confidence[best] > 0:
        return best
    seen = class_like_folders(paths)
    looks = f"The folders that look like classes are {named(seen, 12)}.\n{map_advice(seen)}\n" if len(seen) > 1 else ""
    raise DataError(
        f"The images must have a known layout, but the {len(paths):,} images in {data} have none, for example "
        f"{paths[0]}. {looks}Known layouts:\n"
        f"{_known_layouts()}"
    )


def _known_layouts() -> str:
    """Return the layouts with their patterns; for parts of other packages, which are not imported, the distribution."""
    return "\n".join(f"  {name}: {LAYOUTS.source(name) or LAYOUTS.get(name).pattern}" for name in LAYOUTS)


def _no_images(data: Path, images: Images) -> str:
    left_out = f"; {describe_left_out(images.left_out)}" if images.left_out else ""
    return f"The data must contain images, but {data} has none (suffixes: {', '.join(IMAGE_SUFFIXES)}){left_out}."
