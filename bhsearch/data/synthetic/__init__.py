"""Synthetic tissue, drawn on demand: a data set that is always available."""
