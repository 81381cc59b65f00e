"""Decode JPEG images with more than 8 bits per sample, which scanners and microscopes write and Pillow cannot read."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

from bhsearch.data.images.decoded_image import DecodedImage, Extent, to_8_bit, turned
from bhsearch.errors import DataError
from bhsearch.text import plural

JPEG_LS = 0xF7  # start-of-frame marker of JPEG-LS, a different standard with the same marker syntax
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class JpegFrame:
    """Header of a JPEG image.

    Attributes:
        process: Start-of-frame marker, which identifies the coding process.
        bits: Bits per sample.
        height: Height in pixels.
        width: Width in pixels.
        n_samples: Samples per pixel.
        exif: Content of the EXIF segment; empty if there is no such segment.
    """

    process: int
    bits: int
    height: int
    width: int
    n_samples: int
    exif: bytes


def jpeg_frame(data: bytes) -> JpegFrame | None:
    """Parse the header of a JPEG image; return None for other data or a header without a frame."""
    at, exif = 2, b""
    if data[:2] != b"\xff\xd8":
        return None
    with contextlib.suppress(struct.error, IndexError):
        while data[at] == 0xFF:
            marker = data[at + 1]
            if marker == 0xFF:  # fill byte
                at += 1
                continue
            if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length field
                at += 2
                continue
            if marker in (0xD9, 0xDA):
                return None
            (length,) = struct.unpack_from(">H", data, at + 2)
            if marker == JPEG_LS or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
                bits, height, width, n_samples = struct.unpack_from(">BHHB", data, at + 4)
                return JpegFrame(marker, bits, height, width, n_samples, exif)
            if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
                exif = data[at + 4 : at + 2 + length]
            at += 2 + length
    return None


def read_deep(data: bytes, frame: JpegFrame) -> DecodedImage:
    """Decode a grey or YCbCr JPEG image with 9 to 16 bits per sample.

    Raises:
        DataError: If the number of channels is not 1 or 3, or the image is truncated.
    """
    import imagecodecs

    if frame.n_samples not in (1, 3):
        raise DataError(f"{plural(frame.n_samples, 'channel')} in {frame.bits}-bit JPEG; save the image as grey or RGB")
    if b"\xff\xd9" not in data[-1024:]:  # the decoder would fill missing pixels with grey
        raise DataError("damaged: image file is truncated")
    samples = imagecodecs.jpeg_decode(data).reshape(frame.height, frame.width, frame.n_samples)
    white = (1 << frame.bits) - 1
    extent = Extent(white)
    extent.add(samples)
    exif = Image.Exif()
    if frame.exif:
        exif.load(frame.exif)
    rgb = np.broadcast_to(to_8_bit(samples, white), (frame.height, frame.width, 3))
    return DecodedImage(turned(np.ascontiguousarray(rgb), exif.get(_ORIENTATION)), extent.share)
