"""Read TIFF files with tifffile: select a page, interpret its samples, and convert it to RGB.

The library tifffile returns samples as stored in the file. This module applies photometric interpretation, depth,
transparency and orientation. Samples with an uncertain meaning are refused with a reason.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from bhsearch.data.arrays import Pixels
from bhsearch.data.images.decoded_image import STRIP, DecodedImage, Extent, rgb_of, to_8_bit, turned
from bhsearch.data.images.tiff_segments import EMBEDDED, JPEG, import_tifffile, segment_bytes, segments
from bhsearch.errors import DataError

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF, in either byte order

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _CIELAB, _ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
_N_COLOURS = {
    _WHITE_IS_ZERO: 1,
    _BLACK_IS_ZERO: 1,
    _RGB: 3,
    _PALETTE: 1,
    _CMYK: 4,
    _YCBCR: 3,
    _CIELAB: 3,
    _ICCLAB: 3,
}
_PILLOW_MODES = {_CMYK: "CMYK", _YCBCR: "YCbCr", _CIELAB: "LAB", _ICCLAB: "LAB"}
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_SAMPLE_FORMATS = {_SIGNED: "signed", 4: "untyped", 5: "complex", 6: "complex"}
_PREMULTIPLIED, _STRAIGHT, _COREL = 1, 2, 999  # types of extra samples that are alpha; Corel Draw writes 999
_MAX_SAMPLES = 16  # maximum number of samples per pixel; ignored samples need memory, too
_MAX_PAGES = 64  # number of pages that are inspected; further pages are only counted
_ASPECT_PIXELS = 1.0  # tolerance of the shape of a reduced copy, in pixels

# No compression, and compressions whose decoders take the output size as an argument.
_BOUNDED = {1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 34926, 50000}
_OLD_JPEG = 6

Claim = Callable[[int, int], None]


@dataclass(frozen=True)
class _Meaning:
    """Interpretation of the samples of a page.

    Attributes:
        photometric: Photometric interpretation of TIFF 6.0.
        n_colours: Number of colour samples per pixel; these are the first samples.
        alpha: Position of the alpha sample; None without alpha.
        premultiplied: Whether colours are premultiplied by alpha.
        bits: Bits per sample.
        is_float: Whether samples are floating point.
    """

    photometric: int
    n_colours: int
    alpha: int | None
    premultiplied: bool
    bits: int
    is_float: bool

    @property
    def kept(self) -> list[int]:
        """Positions of the samples that are read: the colours, then alpha."""
        return [*range(self.n_colours), *([] if self.alpha is None else [self.alpha])]

    @property
    def white(self) -> int:
        """Largest possible sample value."""
        return 1 if self.is_float else (1 << self.bits) - 1

    @property
    def cut(self) -> bool:
        """Whether 16-bit samples are truncated instead of rounded, as in Pillow for all images except plain grey."""
        return self.bits == 16 and (self.n_colours > 1 or self.alpha is not None)


def read(stream: BinaryIO, claim: Claim) -> DecodedImage:
    """Decode a TIFF file.

    The first page is read, or the original if the first page is a reduced copy of another page. Reduced copies, such as
    the levels of a pyramid, are not counted as pages. The orientation is applied, and transparent images are composited
    over white.

    Args:
        stream: The file.
        claim: Function that reserves memory, called with the number of pixels and the number of bytes of the largest
            strip or tile before decoding. Raises DataError if the image has more than `decode.MAX_PIXELS` pixels.

    Raises:
        DataError: If the image is larger than `claim` or `segment_bytes` allows, damaged or not supported.
    """
    with _opened(stream) as file:
        page, left_out = _choose(file)
        if page.compression == _OLD_JPEG:
            return DecodedImage(turned(_old_jpeg(file.filehandle, page, claim), page.tags.valueof(274)), 1.0, left_out)
        meaning = _meaning(page)
        height, width = int(page.imagelength), int(page.imagewidth)
        if not height or not width:
            raise DataError("damaged: an image without pixels")
        claim(height * width, segment_bytes(page))
        samples, extent = _samples(file.filehandle, page, meaning)
    pixels = turned(_rgb(samples, page, meaning), page.tags.valueof(274))
    judged = (meaning.bits > 8 or meaning.is_float) and meaning.photometric != _PALETTE
    return DecodedImage(pixels, extent.share if judged else 1.0, left_out)


def _opened(stream: BinaryIO) -> Any:
    try:
        return import_tifffile().TiffFile(stream, is_ome=False)
    except TypeError as error:  # tifffile supports one format for all samples of a page
        raise DataError("damaged, or samples of different formats; save the image with 8 or 16 bits") from error


def _choose(file: Any) -> tuple[Any, int]:
    """Return the page to read, and the number of other pages, without reduced copies of the page to read."""
    file.pages.useframes = False
    n_pages = len(file.pages)
    if not n_pages:
        raise DataError("damaged: no image in the file")
    pages = [file.pages[0]]
    for at in range(1, min(n_pages, _MAX_PAGES)):
        with contextlib.suppress(Exception):  # damaged pages are counted as left out
            pages.append(file.pages[at])
    n_unseen = n_pages - len(pages)
    full = [page for page in pages if not page.is_reduced and not page.is_mask]
    if not full:  # in raw camera files all pages are previews, and the image is a sub-page of the first one
        below = list(pages[0].pages or []) if pages[0].subifds else []
        full = [page for page in below if not page.is_reduced and not page.is_mask] or pages[:1]
    chosen = full[0]
    for page in full[1:]:
        if _is_reduced_copy(chosen, page):
            chosen = page
    others = [page for page in full if page is not chosen and not _is_reduced_copy(page, chosen)]
    masks = [page for page in pages if page.is_mask and page is not chosen]
    left_out = n_unseen + len(others) + len(masks) + int(chosen is not full[0])
    if file.is_imagej:  # large stacks of ImageJ have a header for the first page only
        left_out = max(left_out, int((file.imagej_metadata or {}).get("images", 1)) - 1)
    return chosen, left_out


def _is_reduced_copy(small: Any, large: Any) -> bool:
    """Return whether the page `small` has the aspect ratio of the page `large` and at most half of its side lengths."""
    if small.imagewidth * 2 > large.imagewidth + 1 or small.imagelength * 2 > large.imagelength + 1:
        return False
    width = large.imagewidth * small.imagelength / max(large.imagelength, 1)
    height = large.imagelength * small.imagewidth / max(large.imagewidth, 1)
    return bool(abs(width - small.imagewidth) <= _ASPECT_PIXELS or abs(height - small.imagelength) <= _ASPECT_PIXELS)


def _meaning(page: Any) -> _Meaning:
    """Return the interpretation of the samples of a page.

    Raises:
        DataError: If the interpretation is uncertain or not supported.
    """
    photometric, n_samples = int(page.photometric), int(page.samplesperpixel)
    if page.imagedepth != 1:
        raise DataError(f"a volume of {page.imagedepth} slices; save the slice as a separate image")
    if photometric not in _N_COLOURS:
        raise DataError(
            f"colours of the kind {_name(page.photometric)} are not supported; save the image as grey or RGB"
        )
    if int(page.compression) not in _BOUNDED | EMBEDDED:
        raise DataError(
            f"the compression {_name(page.compression)} is not supported; save the image with the compression LZW or "
            "deflate"
        )
    if n_samples > _MAX_SAMPLES:
        raise DataError(f"{n_samples} channels; save the image as grey or RGB")
    bits, is_float = _depth(page)
    if photometric == _YCBCR and n_samples == 1:  # the only sample is luma
        photometric = _BLACK_IS_ZERO
    elif photometric == _YCBCR and page.compression in JPEG and page.planarconfig == 1:
        photometric = _RGB  # the JPEG decoder converts YCbCr to RGB
    n_colours = _N_COLOURS[photometric]
    alpha, premultiplied = _alpha(page, photometric, n_colours)
    if photometric == _PALETTE and (is_float or page.colormap is None or page.colormap.shape[1] < 1 << bits):
        raise DataError("damaged: the palette is missing or too short")
    if (photometric == _YCBCR and bits != 8) or (
        photometric in (_CIELAB, _ICCLAB) and (is_float or bits not in (8, 16))
    ):
        raise DataError(f"{bits}-bit {_name(page.photometric)} is not supported; save the image as grey or RGB")
    if premultiplied and photometric not in (_BLACK_IS_ZERO, _RGB):
        raise DataError(
            f"premultiplied alpha in {_name(page.photometric)} is not supported; save the image without transparency"
        )
    if photometric == _YCBCR:
        _require_usual_ycbcr(page)
    return _Meaning(photometric, n_colours, alpha, premultiplied, bits, is_float)


def _name(value: Any) -> str:
    name: str = getattr(value, "name", None) or f"number {value}"
    return "CMYK" if name == "SEPARATED" else name


def _depth(page: Any) -> tuple[int, bool]:
    """Return the bits per sample, and whether samples are floating point.

    Raises:
        DataError: If the range of the samples is unknown, or the depth is not supported.
    """
    bits, kind = page.bitspersample, int(page.sampleformat)
    if isinstance(bits, tuple):
        raise DataError(
            f"samples of different depths: {', '.join(map(str, bits))} bits; save the image with 8 or 16 bits"
        )
    if kind == _FLOAT:
        if page.dtype is None or page.dtype.kind != "f":
            raise DataError(f"{bits}-bit floating point is not supported; save the image with 8 or 16 bits")
        return bits, True
    if kind != _UNSIGNED:
        kind_name = _SAMPLE_FORMATS.get(kind, f"unknown ({kind})")
        raise DataError(f"{bits}-bit {kind_name} samples have no known range; save the image with 8 or 16 bits")
    if bits > 16:
        what = "grey" if page.samplesperpixel == 1 else "colour"
        raise DataError(f"{bits}-bit {what} has no known range; save the image with 8 or 16 bits")
    if page.dtype is None:
        raise DataError(f"{bits}-bit samples are not supported; save the image with 8 or 16 bits")
    if page.predictor != 1 and page.compression not in EMBEDDED and bits not in (8, 16):
        raise DataError(f"{bits}-bit samples with a predictor are not supported; save the image with 8 or 16 bits")
    return int(bits), False


def _alpha(page: Any, photometric: int, n_colours: int) -> tuple[int | None, bool]:
    """Return the position of the alpha sample (None without alpha), and whether colours are premultiplied by alpha.

    Raises:
        DataError: If samples are missing, or extra samples have an unknown meaning.
    """
    n_samples, extra = int(page.samplesperpixel), [int(value) for value in page.extrasamples]
    if n_samples < n_colours:
        raise DataError(f"{n_samples} channels, where {_name(page.photometric)} needs {n_colours}")
    for at, value in enumerate(extra[: n_samples - n_colours], start=n_colours):
        if value in (_PREMULTIPLIED, _STRAIGHT, _COREL):
            return at, value == _PREMULTIPLIED
    n_more = n_samples - n_colours
    if photometric == _RGB and n_more == 1 and not extra:
        return n_colours, False  # as in Pillow, a fourth channel of unspecified type is alpha
    if n_more and (photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) or not extra):
        raise DataError(f"{n_samples} channels of unknown meaning; save the image as grey or RGB")
    return None, False


def _require_usual_ycbcr(page: Any) -> None:
    """Check that YCbCr samples have the coefficients and range of JPEG, which Pillow assumes in the conversion.

    Raises:
        DataError: If the coefficients, the range or the compression are not supported.
    """
    if page.compression in EMBEDDED - JPEG:
        raise DataError(f"YCbCr with the compression {_name(page.compression)} is not supported; save the image as RGB")

    def numbers(tag: int, usual: list[float]) -> npt.NDArray[np.float64]:
        value = page.tags.valueof(tag)
        if value is None:
            return np.array(usual)
        flat = np.array(value, np.float64).ravel()  # fractions are pairs, possibly flattened
        return flat[::2] / np.maximum(flat[1::2], 1) if len(flat) == 2 * len(usual) else flat

    for tag, usual in ((529, [0.299, 0.587, 0.114]), (532, [0.0, 255, 128, 255, 128, 255])):
        found = numbers(tag, usual)
        if found.shape != (len(usual),) or np.abs(found - usual).max() > 0.002 * max(usual):
            raise DataError("YCbCr with unusual coefficients or range is not supported; save the image as RGB")


def _old_jpeg(stream: Any, page: Any, claim: Claim) -> Pixels:
    """Decode a page with the obsolete JPEG compression of TIFF 6.0."""
    place, n_bytes = (int(np.ravel(page.tags.valueof(tag) or 0)[0]) for tag in (513, 514))
    if not place or not n_bytes:
        raise DataError(
            "the compression OJPEG without its tag JPEGInterchangeFormat is not supported; save the image with another "
            "compression"
        )
    stream.seek(place)
    with Image.open(io.BytesIO(stream.read(n_bytes)), formats=("JPEG",)) as image:
        if image.size != (page.imagewidth, page.imagelength):
            raise DataError(f"damaged: {image.size} pixels, where its header says {page.imagewidth, page.imagelength}")
        claim(image.width * image.height, 0)
        return rgb_of(image)


def _samples(stream: Any, page: Any, meaning: _Meaning) -> tuple[Pixels, Extent]:
    """Decode the samples `_Meaning.kept` of a page, and measure the range of the colours.

    Returns:
        Samples scaled to 8 bits, or indices of a palette; shape (height, width, n_kept). Extent of the colours.
    """
    samples = np.empty((page.imagelength, page.imagewidth, len(meaning.kept)), np.uint8)
    extent = Extent(meaning.white)
    n_judged = 1 if meaning.photometric in (_CIELAB, _ICCLAB) else meaning.n_colours
    is_index = meaning.photometric == _PALETTE
    if is_index and meaning.bits > 8:
        samples = np.empty(samples.shape, np.uint16)
    for first, top, left, segment in segments(stream, page, meaning.photometric == _YCBCR):
        height = min(segment.shape[0], samples.shape[0] - top)
        width = min(segment.shape[1], samples.shape[1] - left)
        rows = max(STRIP // width, 1)
        for start in range(0, height, rows):
            part = segment[start : min(start + rows, height), :width]
            for band, sample in enumerate(meaning.kept):
                if not 0 <= sample - first < part.shape[2]:
                    continue
                values = part[..., sample - first]
                if band < n_judged:
                    extent.add(values)
                keeps = is_index and band < meaning.n_colours
                scaled = values if keeps else to_8_bit(values, meaning.white, cut=meaning.cut)
                samples[top + start : top + start + len(part), left : left + width, band] = scaled
    return samples, extent


def _rgb(samples: npt.NDArray[Any], page: Any, meaning: _Meaning) -> Pixels:
    """Convert samples to RGB composited over white, strip by strip. Shape (height, width, 3)."""
    if meaning.alpha is None and meaning.photometric == _RGB:
        return samples
    palette = _palette(page) if meaning.photometric == _PALETTE else None
    height, width = samples.shape[:2]
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(STRIP // width, 1)
    for top in range(0, height, rows):
        part = samples[top : top + rows]
        pixels[top : top + rows] = _strip(part, meaning, palette)
    return pixels


def _strip(part: npt.NDArray[Any], meaning: _Meaning, palette: Pixels | None) -> Pixels:
    colours = part[..., : meaning.n_colours]
    size = part.shape[1], part.shape[0]
    rgb: Pixels
    if palette is not None:
        rgb = palette[colours[..., 0]]
    elif meaning.photometric in (_BLACK_IS_ZERO, _WHITE_IS_ZERO):
        grey = colours if meaning.photometric == _BLACK_IS_ZERO else 255 - colours
        rgb = grey.repeat(3, axis=2)
    elif meaning.photometric == _RGB:
        rgb = colours
    else:
        if meaning.photometric == _ICCLAB:  # ICC Lab stores a and b as unsigned values with an offset
            colours = colours ^ np.array([0, 128, 128], np.uint8)
        mode = _PILLOW_MODES[meaning.photometric]
        rgb = rgb_of(Image.frombytes(mode, size, np.ascontiguousarray(colours).tobytes(), "raw", mode))
    if meaning.alpha is None:
        return rgb
    rgba = np.dstack([rgb, part[..., meaning.n_colours :].astype(np.uint8)])
    return rgb_of(Image.frombytes("RGBA", size, rgba.tobytes(), "raw", "RGBa" if meaning.premultiplied else "RGBA"))


def _palette(page: Any) -> Pixels:
    """Return the palette colours, 0 to 255. Shape (n_colours, 3).

    The standard requires 16-bit palettes, but some programs write 8-bit values.
    """
    table = np.asarray(page.colormap).T
    return (table if table.max() < 256 else table >> 8).astype(np.uint8)
