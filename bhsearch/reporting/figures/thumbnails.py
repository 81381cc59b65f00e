"""Image files for HTML pages: square thumbnails and heat map overlays."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
_QUALITY = 90  # JPEG quality at which the texture of nuclei is preserved
# Colour of the heat map, which occurs in neither haematoxylin nor eosin.
_HOT = np.array([255.0, 235.0, 0.0])
_MOST = 0.75


def encode_image(pixels: Pixels, side: int = 0, lossless: bool = True, quality: int = _QUALITY) -> bytes:
    """Return an image as the content of a PNG or JPEG file.

    Args:
        pixels: RGB pixels. Shape (height, width, 3).
        side: Side in pixels of a square thumbnail of the central crop; 0 to keep the whole image.
        lossless: Whether to write PNG instead of JPEG.
        quality: Quality of JPEG, 1 to 95.
    """
    image = Image.fromarray(pixels)
    if side:
        shorter = min(image.size)
        left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
        box = (left, top, left + shorter, top + shorter)
        # A crop that has the right size already is kept as it is.
        image = image.crop(box) if side == shorter else image.resize((side, side), Image.Resampling.LANCZOS, box=box)
    file = io.BytesIO()
    if lossless:
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def overlay(pixels: Pixels, heat: npt.NDArray[np.floating]) -> Pixels:
    """Overlay a grey version of an image with a heat map, from no colour (0) to yellow (1).

    Args:
        pixels: RGB pixels. Shape (height, width, 3).
        heat: Heat from 0 to 1, which is resized to the image. Shape (rows, columns).

    Returns:
        RGB pixels. Shape (height, width, 3).

    Raises:
        ValueError: If the heat map is not two-dimensional, or a value is not from 0 to 1.
    """
    if heat.ndim != 2:
        raise ValueError(f"A heat map must be two-dimensional, but got shape {heat.shape}.")
    outside = heat[~((heat >= 0) & (heat <= 1))]
    if outside.size:
        raise ValueError(f"The values of a heat map must be from 0 to 1, but got {outside[0]:g}.")
    height, width = pixels.shape[:2]
    resized = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    share = _MOST * np.clip(np.asarray(resized), 0.0, 1.0)[:, :, None]
    grey = pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    # The grey image shows through the heat, so that nuclei stay visible.
    mixed = grey[:, :, None] * (1 - share + share * _HOT / 255.0)
    return np.asarray(np.round(mixed), dtype=np.uint8)
