"""The interface of layouts: how the files of a data set say label, case and part of each image."""

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
    """Options that say how to read a data set. A layout names those that it takes in `Layout.options`.

    Attributes:
        case_pattern: Regular expression that is searched in the path relative to the data folder; its group `case`, or
            its first group, is the case of an image whose name says none.
        class_map: `benign=NAME` or `malignant=NAME`, one name each.
        ignore_columns: Columns of a manifest, or folders that look like parts of a division, that have no effect. All
            layouts take them.
        image_root: Folder with the images of a manifest.
    """

    case_pattern: str | None = None
    class_map: Sequence[str] = ()
    ignore_columns: Sequence[str] = ()
    image_root: Path | None = None


class Layout(Protocol):
    """A layout of data sets. Another package offers one by an entry point in `bhsearch.layouts`.

    `--layout auto` chooses among the built-in layouts only.

    Attributes:
        pattern: The layout in one line, for messages, such as `<patient>/<0|1>/<image>.png`.
        options: Fields of `LayoutOptions` that the layout takes besides `ignore_columns`.
        is_file: Whether the data are a file, such as a manifest, rather than a folder of images.
        names_dataset: Whether the layout is that of one published data set, which is then called after it.
    """

    pattern: str
    options: frozenset[str]
    is_file: bool
    names_dataset: bool

    def detect(self, paths: Sequence[str], options: LayoutOptions) -> float:
        """Return the confidence that a folder has this layout, from its names alone.

        Args:
            paths: Images, relative to the data folder.
            options: As the user gave them.

        Returns:
            0 (it has not) to 1. The layout with the highest confidence is chosen.
        """

    def read(self, data: Path, images: Images, options: LayoutOptions) -> Listing:
        """List the images with what their names say. Opens no image.

        Args:
            data: Folder of images, or the file.
            images: The images below the folder; empty for a file.
            options: As the user gave them.

        Raises:
            DataError: If names, labels, cases or parts cannot be used.
            SettingsError: If an option cannot be used.
        """


LAYOUTS: Registry[Layout] = Registry("bhsearch.layouts", "--layout")
