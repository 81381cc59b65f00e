"""Experiments with a fixed configuration instead of a search: leaky splits, and the published folds of BreakHis."""
