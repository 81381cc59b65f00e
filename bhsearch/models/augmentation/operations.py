"""Array operations that have the same names in NumPy, in Keras and in graphs."""

from __future__ import annotations

from typing import Any

import numpy as np

from bhsearch.models.graphs.tensor import GraphTensor


def operations_of(images: Any) -> Any:
    """Return the module whose operations compute on some images.

    Views of images in host memory are computed with NumPy, so that a frozen study on a CPU does not import a framework.

    Args:
        images: A NumPy array, a tensor of a graph, or a tensor of Keras, possibly symbolic.

    Returns:
        `numpy`, the graph, or `keras.ops`.
    """
    if isinstance(images, np.ndarray):
        return np
    if isinstance(images, GraphTensor):
        return images.graph
    from keras import ops

    return ops
