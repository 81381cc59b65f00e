"""Layouts: image records from file names or a manifest."""
