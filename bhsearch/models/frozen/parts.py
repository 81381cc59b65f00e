"""Rows of features that are stored while the rest is computed, so that a killed computation continues from there.

Each part is an entry of the cache, with the facts of the features and its first row as the key. Parts are therefore
complete or missing, checked when read, never mixed with those of another version or precision, and evicted if no
computation uses them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.data.arrays import Float32Array
from bhsearch.runtime import cache

PARTS = "parts"  # kind of the cache entries
_ROWS, _FACTS = "rows.npy", "part.json"


class FeatureParts:
    """The first rows of features, as far as they have been computed.

    Only the process that computes the features may use this class; see `cache.get_or_create`.

    Args:
        facts: Facts that determine the features, as for the cache.
        n_rows: Number of all rows.

    Attributes:
        n_done: Number of rows that have been computed.
        n_before: Number of these rows that an earlier, stopped computation stored.
        seconds: Time that their computation took.
    """

    def __init__(self, facts: Mapping[str, Any], n_rows: int) -> None:
        self._facts, self._n_rows = facts, n_rows
        self._rows: list[Float32Array] = []
        self.n_done, self.seconds = 0, 0.0
        while self.n_done < n_rows:
            folder = cache.lookup(PARTS, self._key(self.n_done))
            if folder is None:
                break
            self.seconds += json.loads((folder / _FACTS).read_text(encoding="utf-8"))["seconds"]
            self._append(np.load(folder / _ROWS))
        self.n_before = self.n_done

    def add(self, rows: Float32Array, seconds: float) -> None:
        """Append the next rows, and store them unless they are the last ones.

        Args:
            rows: Shape (n_new, n_features).
            seconds: Time that their computation took.

        Raises:
            PlaceError: If the disk is full or the cache cannot be written. The parts before are kept.
        """

        def fill(folder: Path) -> None:
            write_array(folder / _ROWS, rows)
            (folder / _FACTS).write_text(json.dumps({"seconds": seconds}), encoding="utf-8")

        start = self.n_done
        self._append(rows)
        self.seconds += seconds
        if self.n_done < self._n_rows:
            cache.get_or_create(PARTS, self._key(start), fill)

    def rows(self) -> Float32Array:
        """Return the rows that have been computed. Shape (n_done, n_features)."""
        return np.concatenate(self._rows)

    def remove(self) -> None:
        """Delete the stored parts, once the features are stored as a whole."""
        start = 0
        for rows in self._rows:
            cache.discard(PARTS, self._key(start))
            start += len(rows)

    def _key(self, start: int) -> dict[str, Any]:
        return {**self._facts, "start": start}

    def _append(self, rows: Float32Array) -> None:
        self._rows.append(rows)
        self.n_done += len(rows)


def write_array(file: Path, array: Float32Array) -> None:
    """Write an array as an npy file without a copy in memory.

    Raises:
        OSError: If the disk is full, with the error number that `np.save` to a file loses.
    """
    array = np.ascontiguousarray(array)
    with file.open("wb", buffering=0) as stream:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(stream, header)
        left = array.data.cast("B")
        while left:
            left = left[stream.write(left) :]
