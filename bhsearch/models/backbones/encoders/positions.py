"""Position embeddings for another image size, resampled as the libraries of the encoders do."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# Coefficients of the cubic kernel: PyTorch uses one for plain and one for antialiased resampling.
_PLAIN, _ANTIALIASED = -0.75, -0.5
_REACH = 2.0  # half the width of the cubic kernel, in pixels


def resample(grid: npt.NDArray[np.float32], side: int, antialias: bool) -> npt.NDArray[np.float32]:
    """Resample a square grid of vectors with a bicubic kernel.

    Args:
        grid: Vectors. Shape (n, n, width).
        side: Side of the new grid.
        antialias: Whether the kernel becomes wider when the grid shrinks.

    Returns:
        Vectors; `grid` itself if its side is unchanged. Shape (side, side, width).

    Source:
        `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`: Keys 1981, with a = -0.75, or a = -0.5
        with antialiasing.
    """
    if side == len(grid):
        return grid
    weights = cubic_weights(len(grid), side, antialias)
    resampled = np.einsum("yi,xj,ijd->yxd", weights, weights, grid.astype(np.float64), optimize=True)
    return np.asarray(resampled, np.float32)


def cubic_weights(n_in: int, n_out: int, antialias: bool) -> npt.NDArray[np.float64]:
    """Return the weight of each input position in each output position. Each row sums to 1. Shape (n_out, n_in).

    Args:
        n_in: Number of input positions.
        n_out: Number of output positions.
        antialias: See `resample`. Without it, positions beyond an edge take the value at the edge; with it, they are
            left out.
    """
    ratio = n_in / n_out
    weights = np.zeros((n_out, n_in))
    if antialias:
        stretch = max(ratio, 1.0)
        for row in range(n_out):
            centre, reach = ratio * (row + 0.5), _REACH * stretch
            columns = np.arange(max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), n_in))
            weights[row, columns] = _cubic((columns + 0.5 - centre) / stretch, _ANTIALIASED)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))
    for row in range(n_out):
        centre = ratio * (row + 0.5) - 0.5
        columns = int(np.floor(centre)) + np.arange(-1, 3)
        np.add.at(weights[row], np.clip(columns, 0, n_in - 1), _cubic(columns - centre, _PLAIN))
    return weights


def _cubic(distance: npt.NDArray[np.floating[Any]], a: float) -> npt.NDArray[np.float64]:
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.asarray(np.where(x < 1, near, np.where(x < _REACH, far, 0.0)))
