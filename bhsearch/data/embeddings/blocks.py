"""A file of vectors as blocks of rows, which all formats return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK_BYTES = 150_000_000  # of the vectors of a block, in float32
Texts = Sequence[str]


@dataclass(frozen=True)
class VectorFile:
    """Content of a file of vectors, before the vectors are read.

    Attributes:
        columns: Names of all columns or arrays in the file, for messages.
        encoder: Name of the encoder that the metadata of the file give; empty if they give none.
        keys: Columns of text or whole numbers, as text, that may identify the images. Each has one entry per row.
        blocks: Function that reads the vectors: blocks of rows in the order of the file, each of shape
            (n_rows, n_features) and of at most `BLOCK_BYTES` in float32.
    """

    columns: tuple[str, ...]
    encoder: str
    keys: Mapping[str, Texts]
    blocks: Callable[[], Iterator[npt.NDArray[np.floating]]]


def rows_per_block(n_features: int, bytes_per_value: int = 4) -> int:
    """Return the number of rows of a block.

    Args:
        n_features: Number of values of a row.
        bytes_per_value: Size of a value as the format holds it, if it is larger than in float32.
    """
    return max(1, BLOCK_BYTES // (max(bytes_per_value, 4) * max(n_features, 1)))


def as_text(value: Any) -> str:
    """Return a key as text: text as it is, bytes decoded, and numbers in decimal digits; empty for a missing one."""
    if value is None or value != value:  # nan is not equal to itself
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
