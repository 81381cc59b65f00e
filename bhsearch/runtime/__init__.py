"""Processes, locks, cache and signals, independent of images."""
