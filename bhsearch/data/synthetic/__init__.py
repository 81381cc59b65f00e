"""Synthetic data set of drawn tissue images, which is always available."""
