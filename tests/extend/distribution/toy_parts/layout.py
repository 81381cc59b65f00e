"""A layout: one folder of images called `CASE_b_NUMBER.png` or `CASE_m_NUMBER.png`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bhsearch.data.images.files import Images
from bhsearch.data.layouts.base import LayoutOptions
from bhsearch.data.layouts.folders import tree_listing
from bhsearch.data.layouts.listing import ImageRecord, Listing, raise_data_errors

_NAME = re.compile(r"(?P<case>c[0-9]+)_(?P<letter>[bm])_[0-9]+\.png")


class FlatFolder:
    """Takes case and label from the name of the file."""

    pattern = "c<case>_<b|m>_<number>.png"
    options = frozenset[str]()
    is_file = False
    names_dataset = False
    sample = ("c1_b_1.png", "c2_m_1.png")

    def detect(self, paths: Sequence[str], options: LayoutOptions) -> float:
        return float(all(map(_NAME.fullmatch, paths)))

    def read(self, data: Path, images: Images, options: LayoutOptions) -> Listing:
        matches = {path: _NAME.fullmatch(path) for path in images.paths}
        raise_data_errors([path for path, match in matches.items() if match is None], f"Names must be {self.pattern}.")
        rows = [ImageRecord(path, "bm".index(m["letter"]), m["case"]) for path, m in matches.items() if m is not None]
        return tree_listing(data, "toy", rows, images, options)


LAYOUT = FlatFolder()
