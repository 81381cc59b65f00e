"""The launcher `ray`, which places the workers of a study as actors on a Ray cluster."""
