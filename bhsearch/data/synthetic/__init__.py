"""Synthetic tissue, drawn when it is needed: the data set that is always there."""
