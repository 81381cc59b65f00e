"""Experiments with one fixed configuration, without a search: leaky splits, and the published folds of BreakHis."""
