"""Figures as PNG, drawn with Matplotlib."""
