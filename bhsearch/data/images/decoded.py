"""A decoded image with what its file says beside the pixels, and the arithmetic that every reader shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bhsearch.errors import DataError

STRIP = 1 << 18  # pixels that are converted at once: whole, each step of a conversion would need as much again
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """One decoded image.

    Attributes:
        pixels: RGB, 0 to 255. Shape (height, width, 3).
        range_used: Share of the range of its samples between the darkest and the brightest, 0 to 1. It is 1 where the
            samples have at most 8 bits: a blank tile of those is no sign of a wrong scale.
        pages_left_out: Pages or frames of the file that are not read, reduced copies of the one that is read excepted.
    """

    pixels: Pixels
    range_used: float = 1.0
    pages_left_out: int = 0


@dataclass
class Extent:
    """The darkest and the brightest of the samples seen so far, on a scale that ends at `white`."""

    white: float
    low: float = field(default=float("inf"))
    high: float = field(default=float("-inf"))

    def add(self, values: npt.NDArray[np.generic]) -> None:
        """Take account of some samples, of any shape but an empty one."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    @property
    def share(self) -> float:
        """Share of the range that is used, 0 to 1."""
        return (self.high - self.low) / self.white


def to_8_bit(values: npt.NDArray[np.generic], white: int, *, cut: bool = False) -> Pixels:
    """Scale samples to 0..255.

    Args:
        values: Unsigned integers from 0 to `white`, or floating point from 0 to 1. Any shape.
        white: Largest value of the integers.
        cut: Drop the lower 8 bits of 16, as Pillow does to colours of 16 bits, rather than round.

    Raises:
        DataError: If values in floating point are outside 0..1 or not finite.
    """
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())  # NaN where any value is
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"floating point outside 0..1 has no known white: {low:g} to {high:g}; save it with 8 or 16 bits"
            )
        return np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    if white == 255:
        return values.astype(np.uint8, copy=False)
    wide = values.astype(np.uint32)
    return (wide >> 8 if cut else (wide * 255 + white // 2) // white).astype(np.uint8)


def over_white(image: Image.Image) -> Image.Image:
    """Lay an image with transparency over white, the colour of an empty slide."""
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def rgb_of(image: Image.Image) -> Pixels:
    """A Pillow image of 8 bits as RGB, transparency over white. Shape (height, width, 3)."""
    if image.has_transparency_data:
        image = over_white(image)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def turned(pixels: Pixels, orientation: Any) -> Pixels:
    """Apply an orientation as EXIF and TIFF number them; other values are ignored."""
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
