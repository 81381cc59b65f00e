"""Processes, locks, cache and signals: nothing here knows of images."""
