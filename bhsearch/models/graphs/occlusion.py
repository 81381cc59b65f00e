"""Heat maps of models without gradients: how much the prediction changes if a part of the image is covered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Pixels

N_CELLS = 8  # rows and columns of the heat map
_EPS = 1e-7  # bound of clipped probabilities, since the logits of 0 and 1 are infinite


def occlusion_map(
    predict: Callable[[Iterator[Pixels]], Iterator[float]], image: Pixels, threshold: float
) -> tuple[npt.NDArray[np.float32], float]:
    """Cover one cell of an image after the other by its mean colour, and return the evidence that is lost.

    Args:
        predict: Function from images to P(malignant) of each.
        image: RGB image of any size. Shape (height, width, 3).
        threshold: Probability from which an image is classified as malignant.

    Returns:
        Decrease of the logit of the predicted class by cell, negative values as 0, shape (N_CELLS, N_CELLS), and
        P(malignant) of the image.

    Source:
        Zeiler and Fergus 2014.
    """
    rows, columns = (np.linspace(0, side, N_CELLS + 1).round().astype(int) for side in image.shape[:2])
    mean = image.mean(axis=(0, 1)).round().astype(np.uint8)

    def covered() -> Iterator[Pixels]:
        yield image
        for top, bottom in pairwise(rows):
            for left, right in pairwise(columns):
                other = image.copy()
                other[top:bottom, left:right] = mean
                yield other

    whole, *others = predict(covered())
    sign = 1.0 if whole >= threshold else -1.0
    lost = sign * (_logit(np.array(whole)) - _logit(np.array(others)))
    return np.maximum(lost, 0.0).reshape(N_CELLS, N_CELLS).astype(np.float32), whole


def _logit(probability: npt.NDArray[Any]) -> npt.NDArray[Any]:
    inside = np.clip(probability, _EPS, 1 - _EPS)
    return np.asarray(np.log(inside) - np.log1p(-inside))
