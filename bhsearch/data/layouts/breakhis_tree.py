"""The layout `breakhis`: a tree of any shape whose files have BreakHis names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bhsearch.data.images.files import Images
from bhsearch.data.layouts import breakhis
from bhsearch.data.layouts.base import LayoutOptions
from bhsearch.data.layouts.folders import from_breakhis_name, tree_listing
from bhsearch.data.layouts.listing import Listing, raise_data_errors


class BreakhisTree:
    """Takes everything from the names of the files and nothing from the folders."""

    pattern = f"anything above files named {breakhis.GRAMMAR}"
    options = frozenset[str]()
    is_file = False
    names_dataset = True

    def detect(self, paths: Sequence[str], options: LayoutOptions) -> float:  # noqa: ARG002
        """Return a high confidence if all names are of BreakHis, or some in the published tree; see `Layout.detect`."""
        names = [breakhis.looks_like(path.rpartition("/")[2]) for path in paths]
        published = any("SOB" in path.split("/")[:-1] for path in paths)  # that tree has breast/benign/SOB/...
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
