"""Open a data set whose images are represented by vectors, which an encoder computed elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from bhsearch.data.dataset import COLUMNS, Dataset
from bhsearch.data.embeddings.join import ImageVectors, check_unique_names, join, name_digests
from bhsearch.data.embeddings.table import name_of, table_of
from bhsearch.data.layouts.base import LayoutOptions
from bhsearch.data.layouts.listing import require_both_classes
from bhsearch.data.layouts.manifest import read_manifest
from bhsearch.data.load_dataset import name_of_folder
from bhsearch.data.magnification import magnification_key


def load_manifest(
    manifest: Path, files: Sequence[Path], options: LayoutOptions, key: str | None, *, both_classes: bool = True
) -> Dataset:
    """Load a data set from a manifest and files of vectors. The image files need not exist and are not read.

    Args:
        manifest: CSV file that lists the images.
        files: Files of vectors.
        options: Options of the layout.
        key: See `join`.
        both_classes: Whether to require images of both classes.

    Raises:
        DataError: If the manifest or a file of vectors is invalid, or if images have no vector.
        SettingsError: If an option is invalid or does not fit the manifest.
    """
    listing = read_manifest(
        manifest,
        class_map=options.class_map,
        ignore_columns=options.ignore_columns,
        image_root=options.image_root,
        must_exist=False,
    )
    if both_classes:
        require_both_classes(row.label for row in listing.rows)
    ids = {row.path: row.id for row in listing.rows if row.id}
    paths, cases = [row.path for row in listing.rows], [row.case for row in listing.rows]
    vectors = _joined(files, paths, ids, key)
    digests = name_digests(paths, cases, next(iter(vectors.values())))
    rows = [
        {
            **asdict(row),
            "bytes_digest": digest,
            "pixels_digest": digest,
            "magnification": magnification_key(row.magnification),
        }
        for row, digest in zip(listing.rows, digests, strict=True)
    ]
    return Dataset(
        name=name_of_folder(listing.root.resolve().name),
        root=listing.root,
        layout=listing.layout,
        table=pd.DataFrame(rows, columns=list(COLUMNS)).astype({"label": "int8"}),
        notes=listing.notes,
        vectors=vectors,
    )


def with_vectors(dataset: Dataset, files: Sequence[Path], key: str | None) -> Dataset:
    """Return a data set of images with the vectors of the images.

    Raises:
        DataError: If a file of vectors is invalid, or if images have no vector.
        SettingsError: If there is no column `key`, or if two files have the same name.
    """
    return replace(dataset, vectors=_joined(files, dataset.column("path").tolist(), {}, key))


def _joined(
    files: Sequence[Path], paths: Sequence[str], ids: dict[str, str], key: str | None
) -> dict[str, ImageVectors]:
    names = [name_of(file) for file in files]
    check_unique_names(files, names)
    return {name: join(table_of(file), paths, ids, key) for name, file in zip(names, files, strict=True)}
