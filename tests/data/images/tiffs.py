"""TIFF files written by hand from the TIFF 6.0 specification, without a library that could share a mistake with the
reader.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

UNSIGNED, SIGNED, FLOAT = 1, 2, 3
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
NONE, DEFLATE = 1, 8
UNSPECIFIED, PREMULTIPLIED, STRAIGHT = 0, 1, 2  # extra samples
_TYPES = {3: "H", 4: "I", 5: "I"}  # SHORT, LONG, RATIONAL
Tags = Mapping[int, "int | Sequence[int]"]


def packed(rows: np.ndarray, bits: int, order: str) -> bytes:
    """Samples of shape (n_rows, n_values), each row from a new byte; below 8 bits and between, highest bit first."""
    if rows.dtype.kind == "f" or bits in (8, 16, 32, 64):
        return rows.astype(rows.dtype.newbyteorder(order)).tobytes()
    values = rows.astype(np.uint32)
    spread = (values[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint32)) & 1
    return np.packbits(spread.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def pieces(samples: np.ndarray, tile: tuple[int, int] | None, rows: int) -> list[np.ndarray]:
    """Strips of `rows` rows, or tiles filled up with zeros."""
    height, width = samples.shape[:2]
    if tile is None:
        return [samples[top : top + rows] for top in range(0, height, rows)]
    filled = np.zeros(
        (-(-height // tile[0]) * tile[0], -(-width // tile[1]) * tile[1], samples.shape[2]), samples.dtype
    )
    filled[:height, :width] = samples
    return [
        filled[top : top + tile[0], left : left + tile[1]]
        for top in range(0, height, tile[0])
        for left in range(0, width, tile[1])
    ]


def page_of(
    samples: np.ndarray,
    photometric: int,
    *,
    bits: int = 0,
    planar: bool = False,
    tile: tuple[int, int] | None = None,
    rows: int = 7,
    order: str = "<",
    deflate: bool = False,
    pack: Callable[[np.ndarray], bytes] | None = None,
    tags: Tags | None = None,
) -> tuple[dict[int, int | Sequence[int]], list[bytes]]:
    """Tags and data of one page.

    Args:
        samples: Shape (height, width, n_samples).
        photometric: Photometric interpretation.
        bits: Of a sample; by default those of the array.
        planar: One plane after the other rather than pixel by pixel.
        tile: Rows and columns of the tiles; None for strips.
        rows: Of a strip.
        order: `<` or `>`.
        deflate: Compress the data.
        pack: Turns a piece into bytes; by default the samples row by row.
        tags: More tags, or others.
    """
    height, width, n_samples = samples.shape
    bits = bits or samples.dtype.itemsize * 8
    planes = [samples[..., at : at + 1] for at in range(n_samples)] if planar else [samples]
    parts = [piece for plane in planes for piece in pieces(plane, tile, rows)]
    data = [pack(part) if pack else packed(part.reshape(len(part), -1), bits, order) for part in parts]
    if deflate:
        data = [zlib.compress(part) for part in data]
    kind = {"f": FLOAT, "i": SIGNED}.get(samples.dtype.kind, UNSIGNED)
    found: dict[int, int | Sequence[int]] = {
        256: width,
        257: height,
        258: [bits] * n_samples,
        259: DEFLATE if deflate else NONE,
        262: photometric,
        277: n_samples,
        284: 2 if planar else 1,
        339: [kind] * n_samples,
    }
    found |= {322: tile[1], 323: tile[0]} if tile else {278: rows}
    return found | dict(tags or {}), data


def tiff(*pages: tuple[Tags, list[bytes]], order: str = "<") -> bytes:
    """Return a TIFF file of pages from `page_of`."""
    content = bytearray(struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 0))
    link = 4  # where the offset of the next directory is to be written
    for tags, data in pages:
        offsets = []
        for part in data:
            offsets.append(len(content))
            content += part + bytes(len(part) % 2)
        tiled = 322 in tags
        places = {324: offsets, 325: list(map(len, data))} if tiled else {273: offsets, 279: list(map(len, data))}
        entries = b""
        for tag, value in sorted({**places, **tags}.items()):
            values = [value] if isinstance(value, int) else list(value)
            kind = 5 if tag in (529, 532) else 4 if tag in (273, 279, 324, 325, 254, 256, 257) else 3
            field = struct.pack(f"{order}{len(values)}{_TYPES[kind]}", *values)
            if len(field) > 4:
                place = len(content)
                content += field + bytes(len(field) % 2)
                field = struct.pack(order + "I", place)
            entries += struct.pack(order + "HHI", tag, kind, len(values) // (2 if kind == 5 else 1))
            entries += field.ljust(4, b"\0")
        content[link : link + 4] = struct.pack(order + "I", len(content))
        content += struct.pack(order + "H", len(entries) // 12) + entries
        link = len(content)
        content += bytes(4)
    return bytes(content)
