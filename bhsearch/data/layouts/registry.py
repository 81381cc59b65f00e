"""Detect the layout of a data set, and list the images according to the layout without opening them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bhsearch.data.dataset import BadFile
from bhsearch.data.images.decode import IMAGE_SUFFIXES
from bhsearch.data.images.files import Images, describe_left_out, find_images
from bhsearch.data.layouts.base import LAYOUTS, NO_OPTIONS, LayoutOptions
from bhsearch.data.layouts.class_names import class_like_folders, map_advice
from bhsearch.data.layouts.listing import Listing, raise_data_errors, require_both_classes
from bhsearch.data.layouts.manifest import PLACEHOLDER_RULE, SUFFIXES
from bhsearch.data.layouts.naming import is_placeholder
from bhsearch.errors import DataError, SettingsError
from bhsearch.text import named, plural

AUTO = "auto"
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
# Options that only some layouts support, with the reason why other layouts do not support them.
_OPTIONS = {
    "case_pattern": "names cases itself",
    "class_map": "names classes itself",
    "image_root": "has its images in the data folder",
}


def read(data: Path, *, layout: str = AUTO, options: LayoutOptions = NO_OPTIONS, both_classes: bool = True) -> Listing:
    """List the images of a data set with the fields that their names give.

    Args:
        data: Folder of images, or a manifest.
        layout: A key of `LAYOUTS`, or `auto` to detect the layout.
        options: Options given by the user.
        both_classes: Whether to require images of both classes.

    Raises:
        DataError: If no layout fits, there are no images, or names, labels, cases or the predefined split are invalid.
        UnknownPartError: If the layout is unknown.
        SettingsError: If an option is invalid or not supported by the layout.
    """
    layout = _checked_layout(data, layout)
    is_file = layout != AUTO and LAYOUTS.get(layout).is_file
    images = Images(()) if is_file else find_images(data)
    if not is_file and not images.paths:
        raise DataError(_no_images(data, images))
    if layout == AUTO:
        layout = _detected(data, images, options)
    _check_options(layout, options)
    listing = LAYOUTS.get(layout).read(data, images, options)
    if both_classes:
        require_both_classes((row.label for row in listing.rows), _unread(listing.bad))
    if listing.has_cases:
        raise_data_errors(
            [f"{row.path}: {row.case!r}" for row in listing.rows if is_placeholder(row.case)], PLACEHOLDER_RULE
        )
    return listing


def detect(data: Path, class_map: Sequence[str] = ()) -> str:
    """Detect the layout of a data set from the names of files and folders.

    Args:
        data: Folder of images, or a manifest.
        class_map: See `LayoutOptions`.

    Returns:
        Name of the layout.

    Raises:
        DataError: If there are no images, or no layout fits.
    """
    if data.is_file() and data.suffix.lower() in SUFFIXES:
        return "manifest"
    images = find_images(data)
    if not images.paths:
        raise DataError(_no_images(data, images))
    return _detected(data, images, LayoutOptions(class_map=class_map))


def require_known(layout: str) -> None:
    """Check that a layout is known.

    Raises:
        UnknownPartError: If it is neither `auto` nor a key of `LAYOUTS`.
    """
    if layout != AUTO and layout not in LAYOUTS:
        raise LAYOUTS.unknown(layout, (AUTO, *LAYOUTS), f" The layouts are:\n{_known_layouts()}")


def _checked_layout(data: Path, layout: str) -> str:
    """Check that the layout is known and fits the data, which are a folder or a file.

    Returns:
        The layout, or `manifest` if the layout is `auto` and the data are a CSV file.

    Raises:
        DataError: If the data do not exist, or are a folder instead of a file or vice versa.
        UnknownPartError: If the layout is unknown.
    """
    require_known(layout)
    try:
        data.stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"Cannot open --data {data}: {reason}. Give a folder of images or a manifest.") from error
    takes_file = layout != AUTO and LAYOUTS.get(layout).is_file
    if data.is_dir():
        if takes_file:
            raise DataError(
                f"The layout {layout} reads a file, but {data} is a folder. Give the path of the {layout} file."
            )
        return layout
    if layout == AUTO and data.suffix.lower() in SUFFIXES:
        return "manifest"
    if not takes_file:
        advice = (
            "Save the table as `CSV UTF-8`" if data.suffix.lower() in _SPREADSHEETS else "Give the folder of the images"
        )
        raise DataError(f"--data must be a folder or a manifest (.csv), but got the file {data}. {advice}.")
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
    """Return the built-in layout with the highest confidence.

    Raises:
        DataError: If the confidence of every layout is 0.
    """
    paths = images.paths
    confidence = {name: LAYOUTS.get(name).detect(paths, options) for name in LAYOUTS.built_in}
    best = max(confidence, key=lambda name: confidence[name])
    if confidence[best] > 0:
        return best
    seen = class_like_folders(paths)
    looks = f"The folders that look like classes are {named(seen, 12)}.\n{map_advice(seen)}\n" if len(seen) > 1 else ""
    raise DataError(
        f"Cannot detect the layout of the {plural(len(paths), 'image')} in {data}, such as {paths[0]}. {looks}Arrange "
        f"the images in one of these layouts, or write a manifest:\n{_known_layouts()}"
    )


def _known_layouts() -> str:
    """Return one line per layout with its pattern or, for layouts of other packages, the name of the package."""
    return "\n".join(f"  {name}: {LAYOUTS.source(name) or LAYOUTS.get(name).pattern}" for name in LAYOUTS)


def _no_images(data: Path, images: Images) -> str:
    left_out = f"; {describe_left_out(images.left_out)}" if images.left_out else ""
    return (
        f"No images were found in {data} (known suffixes: {', '.join(IMAGE_SUFFIXES)}){left_out}{_unread(images.bad)}."
    )


def _unread(bad: Sequence[BadFile]) -> str:
    """Return a clause on the entries of a folder that cannot be read; empty if there are none."""
    n_more = len(bad) - 1
    more = f" and {n_more:,} more" if n_more else ""
    return f" (not read: {bad[0].path}, {bad[0].reason}{more})" if bad else ""
