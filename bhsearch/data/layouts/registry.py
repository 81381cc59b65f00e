"""Reading a data set: the layout is chosen or detected, and lists the images. No image is opened."""

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
    "case_pattern": "names its own cases",
    "class_map": "names its own classes",
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
    """List the images of a data set with what their names say.

    Args:
        data: Folder of images, or a manifest.
        layout: A key of `LAYOUTS`, or `auto` to choose by looking.
        case_pattern: Only for `folders`: regular expression, searched in the path relative to `data`, whose group
            `case` (or first group) is the case of an image that has no BreakHis name.
        class_map: Only for `folders` and `manifest`: `benign=NAME` or `malignant=NAME`, one name each.
        ignore_columns: Columns of a manifest, or folders that look like parts of a division, that have no effect.
        image_root: Only for `manifest`: folder that holds the images.

    Raises:
        DataError: If the layout is unknown, there are no images, or their names, labels, cases or parts cannot be used.
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
    """Choose a layout by looking at the names.

    Args:
        data: Folder of images, or a manifest.
        class_map: As in `read`.

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
    """The layout, `manifest` instead of `auto` for a CSV file, if it is known and fits what `data` is."""
    if layout != AUTO and layout not in LAYOUTS:
        raise LAYOUTS.unknown(layout, (AUTO, *LAYOUTS), f" The layouts are:\n{_known_layouts()}")
    try:
        data.stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"the data must be a folder or a manifest, but got {data}: {reason}.") from error
    if data.is_dir():
        if layout == "manifest":
            raise DataError(f"a manifest is a CSV file, but {data} is a folder: give the path of the file.")
        return layout
    if layout == "auto" and data.suffix.lower() in SUFFIXES:
        return "manifest"
    if layout != "manifest":
        raise DataError(f"the data must be a folder, or a manifest (.csv), but got the file {data}.")
    return layout


def _check_options(layout: str, options: LayoutOptions) -> None:
    for name, what in _OPTIONS.items():
        if getattr(options, name) and name not in LAYOUTS.get(layout).options:
            takers = [own for own in LAYOUTS.built_in if name in LAYOUTS.get(own).options]
            of = f"layout {takers[0]}" if len(takers) == 1 else f"layouts {' and '.join(takers)}"
            raise SettingsError(f"--{name.replace('_', '-')} belongs to the {of}; the layout {layout} {what}.")


def _detected(data: Path, images: Images, options: LayoutOptions) -> str:
    """The built-in layout with the highest confidence; other packages are not imported."""
    paths = images.paths
    confidence = {name: LAYOUTS.get(name).detect(paths, options) for name in LAYOUTS.built_in}
    best = max(confidence, key=lambda name: confidence[name])
    if confidence[best] > 0:
        return best
    seen = class_like_folders(paths)
    looks = f"The folders that look like classes are {named(seen, 12)}.\n{map_advice(seen)}\n" if len(seen) > 1 else ""
    raise DataError(
        f"the {len(paths):,} images under {data} lie in no known layout, for example {paths[0]}. {looks}Known are:\n"
        f"{_known_layouts()}"
    )


def _known_layouts() -> str:
    """The layouts with their patterns; those of other packages with their distribution, as they are not imported."""
    return "\n".join(f"  {name}: {LAYOUTS.source(name) or LAYOUTS.get(name).pattern}" for name in LAYOUTS)


def _no_images(data: Path, images: Images) -> str:
    left_out = f"; {describe_left_out(images.left_out)}" if images.left_out else ""
    return f"there must be images, but {data} holds none (looked for {', '.join(IMAGE_SUFFIXES)}){left_out}."
