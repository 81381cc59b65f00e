"""Engines: which trial comes next, and where trials are stored."""
