"""Render numbers as pages and pictures: HTML, SVG, Markdown and Matplotlib figures."""
