"""Resuming a study: open it, compare its metadata with the settings, recover dead trials, read past predictions."""
