"""The layout `breakhis`: a folder tree of any structure whose files have BreakHis names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bhsearch.data.images.files import Images
from bhsearch.data.layouts import breakhis
from bhsearch.data.layouts.base import LayoutOptions
from bhsearch.data.layouts.folders import from_breakhis_name, tree_listing
from bhsearch.data.layouts.listing import Listing, raise_data_errors


class BreakhisTree:
    """Layout that reads all fields from the file names and ignores the names of folders."""

    pattern = f"anything above files named {breakhis.GRAMMAR}"
    options = frozenset[str]()
    is_file = False
    names_dataset = True

    def detect(self, paths: Sequence[str], options: LayoutOptions) -> float:  # noqa: ARG002
        """Return the confidence that a folder has this layout; see `Layout.detect`.

        The confidence is high if all names are BreakHis names, or if some are and the folders are those of the
        published data set.
        """
        names = [breakhis.looks_like(path.rpartition("/")[2]) for path in paths]
        published = any("SOB" in path.split("/")[:-1] for path in paths)  # the published tree has a folder SOB
        if all(names) or (any(names) and published):
            return 0.8
        return 0.4 if any(names) else 0.0

    def read(self, data: Path, images: Images, options: LayoutOptions) -> Listing:
        """List the images; see `Layout.read`."""
        problems: list[str] = []
        rows = [from_breakhis_name(path, problems) for path in images.paths]
        raise_data_errors(problems, breakhis.grammar_hint())
        return tree_listing(data, "breakhis", [row for row in rows if row is not None], images, options)


LAYOUT = BreakhisTree()
