"""Image files to pixels: formats, decoding and the pixel cache."""
