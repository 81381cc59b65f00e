"""Write pictures as the files that MLflow shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bhsearch.reporting.figures.picture import Picture
from bhsearch.reporting.svg.picture import to_svg
from bhsearch.tracking import keys


def write_pictures(folder: Path, pictures: Mapping[str, Picture]) -> None:
    """Write pictures as SVG files.

    Args:
        folder: Folder of the artifacts; the files are written to its new subfolder `pictures`.
        pictures: Pictures by file name without suffix.
    """
    (folder / keys.PICTURES).mkdir(parents=True)
    for name, picture in pictures.items():
        file = folder / keys.PICTURES / f"{name}{keys.PICTURE_SUFFIX}"
        file.write_text(to_svg(picture), encoding="utf-8")
