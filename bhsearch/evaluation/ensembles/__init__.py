"""Ensembles of the trials of a study: weights, out-of-fold predictions, and the comparison with the best trial."""
