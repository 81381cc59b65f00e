"""Matplotlib figures, and figure descriptions that can also be drawn as SVG."""
