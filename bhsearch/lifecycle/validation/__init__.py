"""Validation of registered models on external cohorts, and warnings about images that differ from the training data."""
