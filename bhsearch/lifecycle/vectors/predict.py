"""Predict P(malignant) of vectors with a registered model that takes vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bhsearch.data.embeddings.join import keys_of
from bhsearch.data.embeddings.table import SUFFIXES, VectorTable, table_of
from bhsearch.data.images.pixel_cache import Progress
from bhsearch.errors import DataError
from bhsearch.lifecycle.predict import ImageRow, Model, six
from bhsearch.lifecycle.validation.training_facts import (
    Batch,
    Differences,
    compare,
    magnification_in_name,
    vector_outputs,
)
from bhsearch.lifecycle.vectors.taken import METADATA, described, mismatch

CASE = "case"  # column of a table with the case of each vector
_BLOCK = 1 << 14  # rows that are read at once


def are_vectors(places: Sequence[str]) -> bool:
    """Return whether files or folders given by the user hold vectors, by the suffixes of the files."""
    paths = [Path(place) for place in places]
    return any(path.suffix.lower() in SUFFIXES or _holds_vectors(path) for path in paths)


def _holds_vectors(path: Path) -> bool:
    if not path.is_dir():
        return False
    files = [each for each in path.iterdir() if each.is_file()]
    return bool(files) and all(each.suffix.lower() in SUFFIXES for each in files)


def open_vectors(places: Sequence[str]) -> VectorTable:
    """Open the file of vectors given by the user.

    Raises:
        DataError: If there are several files, or the file cannot be read.
    """
    if len(places) > 1:
        raise DataError(
            f"Vectors must be in one file, or in one folder of HDF5 files, but got {len(places)} paths: "
            f"{', '.join(places[:5])}. Predict them one by one."
        )
    return table_of(Path(places[0]).expanduser())


def require_images(model: Model) -> None:
    """Check that a model takes images.

    Raises:
        DataError: If it takes vectors.
    """
    made = model.metadata.get(METADATA)
    if made is not None:
        raise DataError(
            f"The model {model.uri} takes vectors of {described(made)}, but got images. Give a Parquet, HDF5 or npz "
            "file of such vectors."
        )


def paths_of(table: VectorTable, key: str | None) -> list[Path]:
    """Return the keys of a table as paths; see `keys_of` for arguments and errors."""
    return [Path(name) for name in keys_of(table, key)[1]]


def _require_vectors(model: Model, table: VectorTable) -> None:
    """Check that a model takes the vectors of a table.

    Raises:
        DataError: If it takes images or other vectors.
    """
    made = model.metadata.get(METADATA)
    if made is None:
        raise DataError(
            f"The model {model.uri} takes images, but got the file of vectors {table.file}. Give images, or name a "
            "model of vectors with --model."
        )
    why = mismatch(made, table)
    if why:
        raise DataError(f"The model {model.uri} cannot take these vectors: {why}.")


def predict(
    model: Model, table: VectorTable, key: str | None, case: Callable[[Path], str], progress: Progress, batch: Batch
) -> Iterator[ImageRow]:
    """Return one row per vector, whose image is named by its key.

    Args:
        model: Model from `predict.open_model`.
        table: Table of vectors.
        key: Name of the column of keys; None to find it by its name.
        case: Function from `predict.case_of`, which finds cases in keys; not used if the table has a column `case`.
        progress: Called with (done, total) vectors.
        batch: Collects what is compared with the training images.

    Raises:
        DataError: If the model takes images or other vectors, or if the keys cannot be used.
        SettingsError: If there is no column `key`.
    """
    _require_vectors(model, table)
    return _rows(model, table, paths_of(table, key), case, progress, batch)


def predict_all(
    model: Model, table: VectorTable, key: str | None, case: Callable[[Path], str], progress: Progress
) -> tuple[list[ImageRow], Differences]:
    """Return the rows of all vectors, and how they differ from the training images; see `predict`."""
    batch = Batch()
    rows = list(predict(model, table, key, case, progress, batch))
    return rows, compare(batch, model.facts)


def _rows(
    model: Model,
    table: VectorTable,
    paths: Sequence[Path],
    case: Callable[[Path], str],
    progress: Progress,
    batch: Batch,
) -> Iterator[ImageRow]:
    vectors = table.mapped()
    cases = table.keys().get(CASE) or [case(path) for path in paths]
    for first in range(0, len(paths), _BLOCK):
        block = np.array(vectors[first : first + _BLOCK])

        def names(at: int, first: int = first) -> tuple[str, str]:
            return cases[first + at], magnification_in_name(paths[first + at].name)

        for at, output in enumerate(vector_outputs(model.network, block, names, batch), start=first):
            probability = six(output.probability)
            label = model.label(probability)
            yield ImageRow(str(paths[at]), cases[at], probability, label, model.uri, model.use)
        progress(min(first + _BLOCK, len(paths)), len(paths))
