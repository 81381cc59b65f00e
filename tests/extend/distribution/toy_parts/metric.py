"""A metric: how far the classes' mean probabilities are apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def mean_gap(label: npt.NDArray[np.int8], probability: npt.NDArray[Any], weight: npt.NDArray[np.float64]) -> Any:
    """Return the weighted mean probability of malignant images less that of benign ones; nan without one of them."""
    means = []
    for value in (1, 0):
        mass = weight * (label == value)
        if mass.sum() == 0:
            return np.asarray(np.nan)
        means.append((mass * probability).sum() / mass.sum())
    return np.asarray(means[0] - means[1])
