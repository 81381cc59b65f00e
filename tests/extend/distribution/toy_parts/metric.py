"""A metric: how far the classes' mean probabilities are apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.metrics import Metric


def _mean_gap(label: npt.NDArray[np.int8], probability: npt.NDArray[Any], weight: npt.NDArray[np.float64]) -> Any:
    """Return the weighted mean probability of malignant images less that of benign ones; nan without one of them."""
    with np.errstate(divide="ignore", invalid="ignore"):
        malignant, benign = ((weight @ (probability * of)) / (weight @ of) for of in (label, 1 - label))
        return np.asarray(malignant - benign)


METRIC = Metric("toy_gap", "gap of the mean probabilities", _mean_gap, low=-1.0)
