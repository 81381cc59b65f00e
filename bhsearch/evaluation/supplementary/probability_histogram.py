"""Distribution of predicted probabilities within each class."""

from __future__ import annotations

import numpy as np

from bhsearch.evaluation.predictions import FloatArray, Predictions

N_BINS = 20


def probability_histogram(predictions: Predictions) -> FloatArray:
    """Return the case-weighted distribution of P(malignant) of benign and of malignant images.

    Returns:
        Share of the weight of each class in each of `N_BINS` bins of equal width from 0 to 1. A row sums to 1, or to 0
        if the class has no images. Shape (2, N_BINS): benign, malignant.
    """
    label = np.tile(predictions.label, predictions.n_repeats)
    shares = np.zeros((2, N_BINS))
    for row in range(2):
        of_class = label == row
        values, weights = predictions.probability.ravel()[of_class], predictions.weight.ravel()[of_class]
        mass, _ = np.histogram(values, N_BINS, (0.0, 1.0), weights=weights)
        shares[row] = mass / mass.sum() if mass.sum() > 0 else mass
    return shares
