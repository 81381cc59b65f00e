"""Interface of layouts, which read the label, case and part of each image from the names of files and folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bhsearch.data.images.files import Images
from bhsearch.data.layouts.listing import Listing
from bhsearch.plugins import Registry


@dataclass(frozen=True)
class LayoutOptions:
    """Options for reading a data set. `Layout.options` names the options that a layout supports.

    Attributes:
        case_pattern: Regular expression that is searched in the path relative to the data folder. The group `case`, or
            else the first group, is the case of the image. Not applied to BreakHis names, which contain the case.
        class_map: Pairs `benign=NAME` or `malignant=NAME` with one name each.
        ignore_columns: Columns of a manifest, or names of folders, to ignore although they seem to divide the data into
            parts. Supported by all layouts.
        image_root: Folder with the images of a manifest.
    """

    case_pattern: str | None = None
    class_map: Sequence[str] = ()
    ignore_columns: Sequence[str] = ()
    image_root: Path | None = None


NO_OPTIONS = LayoutOptions()


class Layout(Protocol):
    """Layout of data sets.

    Other packages provide layouts through entry points in `bhsearch.layouts`. The option `--layout auto` selects only
    built-in layouts.

    Attributes:
        pattern: Description of the layout in one line, for messages, such as `<patient>/<0|1>/<image>.png`.
        options: Fields of `LayoutOptions` that the layout supports, in addition to `ignore_columns`.
        is_file: Whether the data are a file, such as a manifest, rather than a folder of images.
        names_dataset: Whether the name of the layout is used as the name of the data set, as for published data sets.
    """

    pattern: str
    options: frozenset[str]
    is_file: bool
    names_dataset: bool

    def detect(self, paths: Sequence[str], options: LayoutOptions) -> float:
        """Return the confidence that a folder has this layout, based on the names of files and folders.

        Args:
            paths: Paths of the images, relative to the data folder.
            options: Options given by the user.

        Returns:
            Confidence from 0 (the folder does not have this layout) to 1. The layout with the highest confidence is
            selected.
        """

    def read(self, data: Path, images: Images, options: LayoutOptions) -> Listing:
        """List the images with the fields that their names give, without opening the images.

        Args:
            data: Folder of images, or file if `is_file`.
            images: Images below the folder; empty for a file.
            options: Options given by the user.

        Raises:
            DataError: If names, labels, cases or the predefined split are invalid.
            SettingsError: If an option is invalid.
        """


LAYOUTS: Registry[Layout] = Registry("bhsearch.layouts", "--layout")
