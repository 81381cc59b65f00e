"""Numbers -> pages and pictures: HTML, SVG, Markdown and Matplotlib."""
