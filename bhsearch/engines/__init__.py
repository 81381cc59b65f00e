"""Engines, which propose the parameters of the next trial and store the trials of a study."""
