"""Read the strips and tiles of a TIFF page, and decode their samples with tifffile."""

from __future__ import annotations

import copy
import functools
import io
import logging
import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bhsearch.data.images.jpeg import jpeg_frame
from bhsearch.errors import DataError

# Numbers of compressions, as the tag Compression gives them.
JPEG = {7, 33007, 34892}
# Compressions whose data contain the image size, which is checked before decoding.
EMBEDDED = {*JPEG, 33004, 33005, 34712, 50001}
_MAX_SEGMENT_BYTES = 1 << 30


@functools.cache
def import_tifffile() -> ModuleType:
    """Import tifffile and disable its log messages.

    The messages concern unusual tags, which either are checked by the callers or do not affect the pixels.
    """
    import tifffile

    logger = logging.getLogger("tifffile")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return tifffile


def segment_bytes(page: Any) -> int:
    """Return the size of the largest strip or tile after decoding, in bytes.

    Raises:
        DataError: If the size exceeds `_MAX_SEGMENT_BYTES`, 1 GiB.
    """
    rows, columns = _segment_shape(page)
    n_samples = page.samplesperpixel if page.planarconfig == 1 else 1
    n_bytes = int(rows) * int(columns) * int(page.tiledepth or 1) * n_samples * (page.dtype or np.dtype("u1")).itemsize
    if n_bytes > _MAX_SEGMENT_BYTES:
        raise DataError(f"too large: a strip or tile of {n_bytes:,} bytes; the limit is {_MAX_SEGMENT_BYTES:,} bytes")
    return n_bytes


def _segment_shape(page: Any) -> tuple[int, int]:
    """Return the height and width of the strips or tiles of a page; the last strip may be lower."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return page.rowsperstrip or page.imagelength, page.imagewidth


def segments(stream: Any, page: Any, is_ycbcr: bool) -> Iterator[tuple[int, int, int, npt.NDArray[Any]]]:
    """Iterate over decoded strips or tiles.

    Missing data raise an error, whereas tifffile would fill missing strips and tiles with zeros.

    Args:
        stream: The file.
        page: The page, from tifffile.
        is_ycbcr: Whether the samples are YCbCr, which can be subsampled.

    Yields:
        First sample, top row, left column, and samples of shape (height, width, n_samples).
    """
    if is_ycbcr and page.is_subsampled:
        if page.planarconfig != 1:
            raise DataError("subsampled YCbCr in separate planes is not supported; save the image as RGB")
        yield from _subsampled(stream, page)
        return
    more = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in JPEG else {}
    for at, data in enumerate(_stored(stream, page)):
        if page.compression in EMBEDDED:
            _require_size(data, page)
        segment, (first, _, top, left, _), _ = _decoded(page, data, at, more)
        yield first, top, left, segment[0]


def _stored(stream: Any, page: Any) -> Iterator[bytes]:
    """Iterate over the bytes of each strip or tile as stored in the file."""
    rows, columns = _segment_shape(page)
    if rows < 1 or columns < 1:
        raise DataError("damaged: strips or tiles without pixels")
    n_planes = 1 if page.planarconfig == 1 else page.samplesperpixel
    n_wanted = math.ceil(page.imagelength / rows) * math.ceil(page.imagewidth / columns) * n_planes
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))[:n_wanted]
    if len(places) < n_wanted or not all(offset and count for offset, count in places):
        raise DataError("damaged: strips or tiles are missing")
    for offset, count in places:
        stream.seek(offset)
        data = stream.read(min(count, max(stream.size - offset, 0)))
        if len(data) < count and page.compression != 1:  # uncompressed data are checked by their length below
            raise DataError(f"damaged: the file ends within a strip or tile ({len(data):,} of {count:,} bytes)")
        yield data


def _decoded(page: Any, data: bytes, at: int, more: dict[str, Any]) -> Any:
    try:
        return page.decode(data, at, **more)
    except Exception:
        if page.is_tiled or page.imagelength % page.rowsperstrip == 0:
            raise
    # Some programs pad the last strip to the height of the other strips.
    filled = copy.copy(page)
    for cached in ("decode", "hash"):
        filled.__dict__.pop(cached, None)
    n_rows = math.ceil(page.imagelength / page.rowsperstrip) * page.rowsperstrip
    filled.shaped = (*page.shaped[:2], n_rows, *page.shaped[3:])
    return filled.decode(data, at, **more)


def _require_size(data: bytes, page: Any) -> None:
    """Check before decoding that an embedded image is not larger than its strip or tile.

    Raises:
        DataError: If the image is larger, or is not a JPEG image as declared.
    """
    most = _segment_pixels(page)
    if page.compression in JPEG:
        frame = jpeg_frame(data)
        if frame is None:
            if page.jpegheader is not None:
                return
            raise DataError("damaged: a strip or tile that is not JPEG")
        size = frame.width * frame.height
    else:
        with Image.open(io.BytesIO(data), formats=("JPEG2000", "WEBP")) as image:
            size = image.width * image.height
    if size > most:
        raise DataError(f"damaged: {size:,} pixels in a strip or tile of {most:,}")


def _segment_pixels(page: Any) -> int:
    if page.is_tiled:
        return int(page.tilewidth) * int(page.tilelength)
    return int(page.imagewidth) * (int(page.rowsperstrip) + 64)  # JPEG may be padded to whole blocks


def _subsampled(stream: Any, page: Any) -> Iterator[tuple[int, int, int, npt.NDArray[Any]]]:
    """Iterate over strips or tiles of subsampled YCbCr without JPEG; see `segments`.

    The data consist of blocks of luma samples, each followed by the two chroma samples of the block.
    """
    across, down = page.subsampling or (2, 2)
    if across not in (1, 2, 4) or down not in (1, 2, 4):
        raise DataError(f"damaged: chroma subsampled by {across} and {down}")
    if page.predictor != 1 or page.fillorder != 1:
        raise DataError("subsampled YCbCr with a predictor is not supported; save the image as RGB")
    length, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    n_across = math.ceil(page.imagewidth / width)
    decompress = None if page.compression == 1 else import_tifffile().TIFF.DECOMPRESSORS[page.compression]
    for at, stored in enumerate(_stored(stream, page)):
        top, left = at // n_across * length, at % n_across * width
        height = length if page.is_tiled else min(length, page.imagelength - top)
        shape = math.ceil(height / down), math.ceil(width / across), across * down + 2
        size = math.prod(shape)
        data = stored if decompress is None else decompress(stored, out=size)
        if len(data) < size:
            raise DataError(f"damaged: a strip or tile of {len(data):,} bytes, where {size:,} are needed")
        blocks = np.frombuffer(data, np.uint8, size).reshape(shape)
        luma = blocks[..., :-2].reshape(*shape[:2], down, across).swapaxes(1, 2).reshape(shape[0] * down, -1)
        chroma = blocks[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
        yield 0, top, left, np.dstack([luma, chroma])[:height, :width]
