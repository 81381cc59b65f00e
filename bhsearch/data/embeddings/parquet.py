"""Parquet files of vectors: one column of lists, or one column per feature."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.embeddings.blocks import VectorFile, as_text, rows_per_block
from bhsearch.errors import DataError
from bhsearch.text import named

_ENCODER = ("encoder", "encoder_name", "model", "model_name")  # keys of the metadata that name the encoder


def read_parquet(file: Path) -> VectorFile:
    """Open a Parquet file of vectors.

    Raises:
        DataError: If the file is no Parquet file, or has no vectors or several columns of lists.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = pq.ParquetFile(file)
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        raise DataError(f"Cannot read {file} as a Parquet file: {_line(error)}") from error
    schema = content.schema_arrow
    lists = [field.name for field in schema if _is_list_of_numbers(field.type)]
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    texts = [field.name for field in schema if _is_key(field.type)]
    if len(lists) > 1:
        raise DataError(
            f"{file} must have one column of vectors, but {named(lists)} are columns of lists. Write one file for each."
        )
    if not lists and not floats:
        raise DataError(
            f"{file} has no vectors: neither a column of lists of numbers nor columns of floating-point numbers. Its "
            f"columns are {named(schema.names, 12)}."
        )

    def blocks() -> Iterator[npt.NDArray[np.floating]]:
        n_features = _length_of_list(content, lists[0]) if lists else len(floats)
        bytes_per_value = 8 if lists else 4
        first = 0
        step, groups = rows_per_block(n_features, bytes_per_value), range(content.num_row_groups)
        # One reader for each row group: a reader keeps what it has read.
        readers = (content.iter_batches(step, row_groups=[group], columns=lists or floats) for group in groups)
        for batch in itertools.chain.from_iterable(readers):
            if lists:
                yield _of_lists(file, lists[0], batch.column(0), n_features, first)
            else:
                yield np.stack([_numbers(column) for column in batch.columns], axis=1)
            first += len(batch)

    keys = {name: [as_text(value) for value in content.read([name]).column(0).to_pylist()] for name in texts}
    return VectorFile(tuple(schema.names), _encoder(schema.metadata or {}), keys, blocks)


def _is_list_of_numbers(kind: Any) -> bool:
    import pyarrow as pa

    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


def _is_key(kind: Any) -> bool:
    import pyarrow as pa

    of_text = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(of_text) or pa.types.is_large_string(of_text) or pa.types.is_integer(kind))


def _length_of_list(content: Any, name: str) -> int:
    """Return the length of the first list of a column; 1 if there is none."""
    first = next(content.iter_batches(1, columns=[name]), None)
    value = first.column(0)[0].as_py() if first is not None and len(first) else None
    return len(value) if value else 1


def _of_lists(file: Path, name: str, column: Any, n_features: int, first: int) -> npt.NDArray[np.floating]:
    """Return a column of lists as a matrix.

    Args:
        file: File, for messages.
        name: Name of the column.
        column: Arrow array of lists.
        n_features: Length that every list must have.
        first: Row of the file at which the array begins.

    Raises:
        DataError: If a list is missing or has another length.
    """
    import pyarrow.compute as pc

    lengths = np.nan_to_num(_numbers(pc.list_value_length(column)), nan=0.0)
    odd = np.flatnonzero(lengths != n_features)
    if len(odd):
        raise DataError(
            f"All vectors of {file} must have the same length, but the list in row {first + odd[0] + 1:,} of the "
            f"column {name!r} has {lengths[odd[0]]:.0f} numbers and that in row 1 has {n_features}. Write the vectors "
            "again."
        )
    return _numbers(pc.list_flatten(column)).reshape(len(column), n_features)


def _numbers(column: Any) -> npt.NDArray[np.floating]:
    """Return an Arrow array of numbers as floating-point numbers; missing values are nan."""
    found: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return found if np.issubdtype(found.dtype, np.floating) else found.astype(np.float64)


def _encoder(metadata: dict[bytes, bytes]) -> str:
    """Return the encoder that the metadata of a schema name, also in the attributes that pandas writes."""
    for name in _ENCODER:
        if name.encode() in metadata:
            return as_text(metadata[name.encode()])
    try:
        attributes = json.loads(metadata.get(b"PANDAS_ATTRS") or json.loads(metadata[b"pandas"])["attributes"])
        return next((str(attributes[name]) for name in _ENCODER if attributes.get(name)), "")
    except (KeyError, ValueError, TypeError, AttributeError):
        return ""


def _line(error: Exception) -> str:
    return f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}".rstrip(".") + "."
