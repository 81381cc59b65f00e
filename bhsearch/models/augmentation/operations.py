"""Array operations that have the same names in NumPy and in Keras."""

from __future__ import annotations

from typing import Any

import numpy as np


def operations_of(images: Any) -> Any:
    """Return the module whose operations compute on some images.

    Views of images in host memory are computed with NumPy, so that a frozen study on a CPU does not import a framework.

    Args:
        images: A NumPy array, or a tensor of Keras, possibly symbolic.

    Returns:
        `numpy` or `keras.ops`.
    """
    if isinstance(images, np.ndarray):
        return np
    from keras import ops

    return ops
