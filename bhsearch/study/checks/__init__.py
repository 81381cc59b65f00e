"""Checks before the first trial: disk space, size of the sealed test set, and plugins of other packages."""
