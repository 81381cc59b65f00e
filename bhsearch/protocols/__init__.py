"""Experiments with one fixed configuration: leaky splits, and the published folds of BreakHis. Nothing is searched."""
