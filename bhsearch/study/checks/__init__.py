"""Checks before the first trial: disk space, the size of the sealed test, and parts of other packages."""
