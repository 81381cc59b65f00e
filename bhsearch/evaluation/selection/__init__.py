"""Statistics of the selection of one trial among many."""
