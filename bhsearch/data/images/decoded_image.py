"""Decoded images, and conversions of samples that all image readers use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bhsearch.data.arrays import Pixels
from bhsearch.errors import DataError

STRIP = 1 << 18  # number of pixels to convert at once, to bound the memory of intermediate arrays


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """Decoded image.

    Attributes:
        pixels: RGB, 0 to 255. Shape (height, width, 3).
        range_used: Share of the sample range between the darkest and the brightest sample, 0 to 1; 1 for samples of at
            most 8 bits, whose range is known.
        pages_left_out: Number of pages or frames that are not read, without reduced copies of the page that is read.
    """

    pixels: Pixels
    range_used: float = 1.0
    pages_left_out: int = 0


@dataclass
class Extent:
    """Running minimum and maximum of samples on a scale that ends at `white`."""

    white: float
    low: float = field(default=float("inf"))
    high: float = field(default=float("-inf"))

    def add(self, values: npt.NDArray[np.generic]) -> None:
        """Include samples of any non-empty shape."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    @property
    def share(self) -> float:
        """Used share of the range from 0 to `white`."""
        return (self.high - self.low) / self.white


def to_8_bit(values: npt.NDArray[np.generic], white: int, *, cut: bool = False) -> Pixels:
    """Scale samples to 0..255.

    Args:
        values: Unsigned integers from 0 to `white`, or floating point from 0 to 1. Any shape.
        white: Largest possible integer.
        cut: Whether to drop the lower 8 of 16 bits, as Pillow does for 16-bit colours, instead of rounding.

    Raises:
        DataError: If floating-point values are outside 0..1 or not finite.
    """
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())  # NaN if any value is NaN
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"floating-point samples outside 0..1 ({low:g} to {high:g}); save the image with 8 or 16 bits"
            )
        return np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    if white == 255:
        return values.astype(np.uint8, copy=False)
    wide = values.astype(np.uint32)
    return (wide >> 8 if cut else (wide * 255 + white // 2) // white).astype(np.uint8)


def over_white(image: Image.Image) -> Image.Image:
    """Composite a transparent image over white, the colour of an empty slide."""
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def rgb_of(image: Image.Image) -> Pixels:
    """Convert an 8-bit Pillow image to RGB, composited over white if transparent. Shape (height, width, 3)."""
    if image.has_transparency_data:
        image = over_white(image)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def turned(pixels: Pixels, orientation: Any) -> Pixels:
    """Apply an orientation number of EXIF or TIFF; other values are ignored."""
    turns: dict[int, Callable[[Pixels], Pixels]] = {
        2: lambda image: image[:, ::-1],
        3: lambda image: image[::-1, ::-1],
        4: lambda image: image[::-1],
        5: lambda image: image.swapaxes(0, 1),
        6: lambda image: image[::-1].swapaxes(0, 1),
        7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
        8: lambda image: image[:, ::-1].swapaxes(0, 1),
    }
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))
