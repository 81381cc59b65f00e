"""Launchers: where worker processes run."""
