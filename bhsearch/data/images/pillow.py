"""Convert images opened by Pillow to 8-bit RGB, and recognise unsupported formats for error messages."""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps

from bhsearch.data.arrays import Pixels
from bhsearch.data.images.decoded_image import STRIP, DecodedImage, rgb_of
from bhsearch.errors import DataError

_PNG, _PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24  # signature; offset of the bits per sample in the header
_CODESTREAM = b"\xff\x4f\xff\x51"  # JPEG 2000: SOC and SIZ markers
_TILE, _END = b"\xff\x90", b"\xff\xd9"  # markers: start of tile data, end of codestream
_JPEG_2000 = (b"\x00\x00\x00\x0cjP  \r\n\x87\n", _CODESTREAM)
_HIGH_WHITE = 65535
# Unsupported formats: offset of the signature, signature, name.
_FOREIGN = (
    (128, b"DICM", "DICOM"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypmsf1", "HEIC"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"II\xbc\x01", "JPEG XR"),
    (0, b"8BPS", "Photoshop (PSD)"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\x93NUMPY", "NumPy"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"\x00\x00\x01\x00", "a Windows icon"),
    (0, b"gimp xcf ", "GIMP (XCF)"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"\x01\xda", "SGI"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"icns", "an Apple icon"),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG"),
    *((0, b"P%d%c" % (number, space), "Netpbm") for number in range(1, 8) for space in b"\n \r\t"),
)


def read(image: Image.Image, stream: BinaryIO, head: bytes) -> DecodedImage:
    """Decode the first frame of an image opened by Pillow, oriented by EXIF and composited over white.

    Args:
        image: Image that is opened but not loaded.
        stream: File of the image.
        head: First bytes of the file.

    Raises:
        DataError: If the meaning of the samples is unknown, or a JPEG 2000 file is truncated.
    """
    depth = _depth(image, head)
    if image.format == "JPEG2000":
        _require_end(stream)
    image.load()
    range_used = _range_used(image) if depth > 8 else 1.0
    left_out = getattr(image, "n_frames", 1) - 1
    _mend_transparency(image, stream, depth)
    ImageOps.exif_transpose(image, in_place=True)
    return DecodedImage(_rgb(image), range_used, left_out)


def why_not(head: bytes) -> str:
    """Return the reason why a file cannot be read: an unsupported format, damage, or not an image."""
    for at, mark, name in _FOREIGN:
        if head[at : at + len(mark)] == mark:
            return f"{name} is not supported; save the image as PNG or TIFF"
    if head.startswith(_JPEG_2000):
        n_channels, _, _ = _jpeg_2000(head) or (0, 8, False)
        return (
            f"{n_channels} channels; save the image as grey or RGB"
            if n_channels > 4
            else "damaged: no JPEG 2000 header"
        )
    return "not an image"


def _depth(image: Image.Image, head: bytes) -> int:
    """Return the bits per sample in the file, which Pillow does not keep for most images.

    Raises:
        DataError: If the samples of a JPEG 2000 file have an unknown meaning or an unsupported depth.
    """
    if image.format == "PNG":
        return head[_PNG_DEPTH]
    sizes = _jpeg_2000(head) if image.format == "JPEG2000" else None
    if sizes is None:
        return 8
    n_channels, depth, is_signed = sizes
    if n_channels == 2 and b"cdef" not in head:
        raise DataError("2 channels of unknown meaning; save the image as grey or RGB")
    if is_signed or depth < 8 or depth > 16:
        kind = "signed" if is_signed else "unsigned"
        raise DataError(f"{depth}-bit {kind} samples in JPEG 2000; save the image with 8 or 16 bits")
    return depth


def _require_end(stream: BinaryIO) -> None:
    """Check that a JPEG 2000 file is complete, since OpenJPEG decodes truncated files without an error.

    Coded data never contain the byte values of markers, so the end marker can be found by a search.

    Raises:
        DataError: If the file is truncated.
    """
    stream.seek(0)
    content = stream.read()
    stream.seek(0)
    end = content.rfind(_END)
    if end < 0 or end < content.rfind(_TILE):
        raise DataError("damaged: image file is truncated")


def _jpeg_2000(head: bytes) -> tuple[int, int, bool] | None:
    """Return the number of channels, and bits per sample and signedness of the first channel.

    Returns:
        The three values; None without a JPEG 2000 header.
    """
    at = head.find(_CODESTREAM)
    if at < 0 or at + 43 > len(head):
        return None
    n_channels, precision = struct.unpack_from(">HB", head, at + 40)
    return n_channels, (precision & 127) + 1, precision > 127


def _mend_transparency(image: Image.Image, stream: BinaryIO, depth: int) -> None:
    """Correct the transparent colour of a PNG, which Pillow does not convert to 8 bits together with the samples."""
    colour = image.info.get("transparency")
    if image.format != "PNG" or image.mode == "P" or colour is None:
        return
    if depth in (2, 4):
        white = (1 << depth) - 1
        image.info["transparency"] = (colour & white) * 255 // white
    elif depth == 16 and isinstance(colour, tuple):
        high, low = np.asarray(image), _low_bytes(stream)
        is_clear = np.all((high == np.array(colour) >> 8) & (low == np.array(colour) & 255), axis=2)
        del image.info["transparency"]
        image.putalpha(Image.fromarray(np.where(is_clear, 0, 255).astype(np.uint8)))


def _low_bytes(stream: BinaryIO) -> Pixels:
    """Return the lower 8 bits of the samples of a 16-bit colour PNG.

    Pillow keeps only the upper 8 bits, so the file is decoded with swapped bytes.
    """
    stream.seek(0)
    with Image.open(stream, formats=("PNG",)) as image:
        assert isinstance(image, ImageFile.ImageFile)
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
        return np.asarray(image)


def _range_used(image: Image.Image) -> float:
    """Return the share of the sample range that the colours use, without alpha, from the samples read by Pillow."""
    bands = image.getextrema()
    extrema = [bands] if isinstance(bands[0], int | float) else list(bands)
    if image.mode in ("LA", "RGBA"):
        extrema = extrema[:-1]
    white = _HIGH_WHITE if image.mode.startswith("I") else 255
    return float(max(high for _, high in extrema) - min(low for low, _ in extrema)) / white


def _rgb(image: Image.Image) -> Pixels:
    width, height = image.size
    rows = max(STRIP // width, 1)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        pixels[top : top + rows] = _strip(image.crop((0, top, width, min(top + rows, height))))
    return pixels


def _strip(image: Image.Image) -> Pixels:
    return _grey16(image) if image.mode.startswith("I") else rgb_of(image)


def _grey16(image: Image.Image) -> Pixels:
    """Scale grey values from 0..65535 to 0..255 with rounding, since Pillow would clip values above 255."""
    grey = np.asarray(image).astype(np.int64)
    scaled = ((grey + 128) // 257).astype(np.uint8)
    if "transparency" in image.info:
        scaled[grey == image.info["transparency"]] = 255
    return np.repeat(scaled[..., None], 3, axis=2)
