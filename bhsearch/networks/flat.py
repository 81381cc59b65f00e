"""Many arrays as one: a call of a compiled function pays for each of its arrays, and a network has hundreds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class Flat:
    """Lays arrays of known shapes one after another.

    Args:
        shapes: Of the arrays, in their order.
    """

    def __init__(self, shapes: Iterable[Sequence[int]]) -> None:
        self.shapes = [tuple(shape) for shape in shapes]
        self.sizes = [int(np.prod(shape)) for shape in self.shapes]
        self._cuts = np.cumsum(self.sizes)[:-1].tolist()

    def join(self, arrays: Sequence[Any]) -> Array:
        """One vector of NumPy arrays, float32. Shape (sum of sizes,)."""
        return np.concatenate([np.zeros(0, np.float32), *map(np.ravel, arrays)], dtype=np.float32)

    def parts(self, vector: Any) -> list[Array]:
        """NumPy arrays of a vector."""
        pieces = np.split(np.asarray(vector), self._cuts) if self.shapes else []
        return [piece.reshape(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def split(self, vector: Any) -> list[Any]:
        """The backend's arrays of a vector, inside a compiled function."""
        from keras import ops

        if not self.shapes:
            return []
        pieces = ops.split(ops.reshape(vector, (sum(self.sizes),)), self._cuts)
        return [ops.reshape(piece, shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def concatenate(self, arrays: Sequence[Any]) -> Any:
        """One vector of the backend's arrays, inside a compiled function."""
        from keras import ops

        return ops.concatenate([ops.zeros(0, "float32"), *(ops.reshape(array, (-1,)) for array in arrays)])
