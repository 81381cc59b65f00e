"""Layouts: from the names of files, or a manifest, to what is known of each image."""
