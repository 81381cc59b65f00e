"""A thousand files called .png: sound ones of every kind that PNG knows, damaged ones, and what is no image at all.

Each is a function of its number, so that one that fails can be made again alone.
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
Make = Callable[[np.random.Generator, Path], "np.ndarray | str | None"]


# -- PNG files by hand: Pillow writes neither interlaced ones nor 16-bit colour ----------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int, depth: int, colour: int, interlaced: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))


def png(samples: np.ndarray, depth: int, colour: int, extra: bytes = b"", interlaced: bool = False) -> bytes:
    """A PNG file of samples of shape (height, width, channels); `extra` are chunks before the pixels."""
    height, width = samples.shape[:2]
    passes = [samples[y::dy, x::dx] for y, x, dy, dx in _ADAM7] if interlaced else [samples]
    rows = b"".join(_rows(part, depth) for part in passes if part.size)
    head = header(width, height, depth, colour, int(interlaced))
    return SIGNATURE + head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _rows(samples: np.ndarray, depth: int) -> bytes:
    flat = samples.reshape(len(samples), -1)
    if depth == 16:
        packed = flat.astype(">u2").view(np.uint8)
    else:
        bits = np.unpackbits(flat.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        packed = np.packbits(bits.reshape(len(flat), -1), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def size(random: np.random.Generator) -> tuple[int, int]:
    return int(random.integers(1, 70)), int(random.integers(1, 70))


def noise(random: np.random.Generator, channels: int, depth: int = 8) -> np.ndarray:
    return random.integers(0, 1 << depth, (*size(random), channels))


def rgb(samples: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(samples, (*samples.shape[:2], 3)), np.uint8)


# -- sound files: they return the pixels that must be read, or None where Pillow is to be asked ------------------------


def any_kind(depths: dict[int, tuple[int, ...]], interlaced: bool | None) -> Make:
    def make(random: np.random.Generator, file: Path) -> np.ndarray | None:
        colour = int(random.choice(list(depths)))
        depth = int(random.choice(depths[colour]))
        samples = noise(random, _CHANNELS[colour], depth)
        table = random.integers(0, 256, (1 << depth, 3), np.uint8) if colour == PALETTE else None
        extra = chunk(b"PLTE", table.tobytes()) if table is not None else b""
        twisted = bool(random.integers(2)) if interlaced is None else interlaced
        file.write_bytes(png(samples, depth, colour, extra, twisted))
        if table is not None:
            return table[samples[..., 0]]
        if colour == GREY and depth == 16:
            return rgb((samples + 128) // 257)
        if colour in (GREY, RGB):
            return rgb(samples >> 8 if depth == 16 else samples * 255 // ((1 << depth) - 1))
        return None

    return make


def transparent_palette(random: np.random.Generator, file: Path) -> None:
    depth = int(random.choice([1, 2, 4, 8]))
    colours = random.integers(0, 256, 3 << depth, np.uint8).tobytes()
    alphas = random.integers(0, 256, random.integers(1, (1 << depth) + 1), np.uint8).tobytes()
    extra = chunk(b"PLTE", colours) + chunk(b"tRNS", alphas)
    file.write_bytes(png(noise(random, 1, depth), depth, PALETTE, extra, bool(random.integers(2))))


def transparent_colour(random: np.random.Generator, file: Path) -> np.ndarray:
    """One colour counts as transparent, and becomes white."""
    colour = int(random.choice([GREY, RGB]))
    samples = noise(random, _CHANNELS[colour])
    chosen = samples[0, 0]
    file.write_bytes(png(samples, 8, colour, chunk(b"tRNS", chosen.astype(">u2").tobytes())))
    expected = rgb(samples).copy()
    expected[(samples == chosen).all(axis=-1)] = 255
    return expected


def other_content(kind: str, mode: str = "RGB", **options: object) -> Make:
    def make(random: np.random.Generator, file: Path) -> np.ndarray | None:
        image = Image.fromarray(rgb(noise(random, 3)))
        image.convert(mode).save(file, kind, **options)
        return np.array(image) if kind in ("BMP", "TIFF") else None

    return make


def with_tail(random: np.random.Generator, file: Path) -> np.ndarray:
    samples = noise(random, 3)
    file.write_bytes(png(samples, 8, RGB) + random.bytes(int(random.integers(1, 999))))
    return rgb(samples)


def link_out(random: np.random.Generator, file: Path) -> np.ndarray:
    outside = file.parents[2] / "outside" / file.name
    outside.parent.mkdir(exist_ok=True)
    samples = noise(random, 3)
    outside.write_bytes(png(samples, 8, RGB))
    file.symlink_to(outside if random.integers(2) else os.path.relpath(outside, file.parent))
    return rgb(samples)


def at_the_limit(random: np.random.Generator, file: Path) -> str:
    """As many pixels as are read at all, in stripes; returns the digest of what must be read."""
    side, at_once = 10_000, 100
    colour = int(random.choice([GREY, RGB, RGBA]))
    row = random.integers(0, 256, (1, side, _CHANNELS[colour]), np.uint8)
    pixels = repeated((b"\0" + row.tobytes()) * at_once, side // at_once)
    file.write_bytes(SIGNATURE + header(side, side, 8, colour) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    if colour == RGBA:
        image = Image.fromarray(row)
        row = np.array(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))
    digest = hashlib.sha256(repr((side, side, 3)).encode())
    rows = rgb(row).tobytes() * at_once
    for _ in range(side // at_once):
        digest.update(rows)
    return digest.hexdigest()


def repeated(data: bytes, times: int) -> bytes:
    """Compress `data * times` in the time of `data`: after a full flush, nothing refers to what was before."""
    pack = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    block = pack.compress(data) + pack.flush(zlib.Z_FULL_FLUSH)
    checksum = 1
    for _ in range(times):
        checksum = zlib.adler32(data, checksum)
    return b"\x78\x01" + block * times + b"\x03\x00" + checksum.to_bytes(4, "big")


# -- files that may be read or not: Pillow is asked --------------------------------------------------------------------


def some_file(random: np.random.Generator) -> bytearray:
    stream = io.BytesIO()
    kind = random.integers(5)
    pixels = rgb(noise(random, 3))
    if kind == 0:
        Image.fromarray(pixels).save(stream, "JPEG", quality=int(random.integers(5, 96)))
    elif kind == 1:
        Image.fromarray(pixels).quantize(16).save(stream, "PNG")
    elif kind == 2:
        return bytearray(png(noise(random, 4), 8, RGBA, interlaced=True))
    elif kind == 3:
        return bytearray(png(noise(random, 1, 16), 16, GREY))
    else:
        Image.fromarray(pixels).save(stream, "PNG")
    return bytearray(stream.getvalue())


def bit_flips(random: np.random.Generator, file: Path) -> None:
    content = some_file(random)
    for at in random.integers(0, len(content), random.integers(1, 9)):
        content[at] ^= 1 << int(random.integers(8))
    file.write_bytes(content)


def truncated(random: np.random.Generator, file: Path) -> None:
    content = some_file(random)
    file.write_bytes(content[: int(random.integers(1, len(content)))])


def wrong_size(random: np.random.Generator, file: Path) -> None:
    """The checksum is right: nothing but the number of pixels tells."""
    samples = noise(random, 3)
    content = png(samples, 8, RGB)
    height, width = samples.shape[:2]
    near = [(width + 1, height), (max(width - 1, 0), height), (width, height + 1), (height, width), (0, height)]
    far = [(width, 9_000_000), (9000, 9000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (2**32 - 1, 7), (60_000, 60_000)]
    chosen = (near + far)[int(random.integers(len(near) + len(far)))]
    file.write_bytes(SIGNATURE + header(*chosen, 8, RGB) + content[33:])


def wrong_header(random: np.random.Generator, file: Path) -> None:
    samples = noise(random, 3)
    content = png(samples, 8, RGB)
    fields = [int(random.choice([0, 1, 2, 3, 4, 6, 8, 9, 16, 255])) for _ in range(5)]
    head = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], *fields)
    file.write_bytes(SIGNATURE + chunk(b"IHDR", head) + content[33:])


def shuffled_chunks(random: np.random.Generator, file: Path) -> None:
    content, chunks, at = png(noise(random, 3), 8, RGB, chunk(b"tEXt", b"Title\0none")), [], len(SIGNATURE)
    while at < len(content):
        end = at + 12 + struct.unpack(">I", content[at : at + 4])[0]
        chunks.append(content[at:end])
        at = end
    chosen = random.integers(0, len(chunks), random.integers(1, 9))
    file.write_bytes(SIGNATURE + b"".join(chunks[int(at)] for at in chosen))


def lying_lengths(random: np.random.Generator, file: Path) -> None:
    content = some_file(random)
    at = int(random.integers(0, max(len(content) - 4, 1)))
    content[at : at + 4] = struct.pack(">I", int(random.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**20])))
    file.write_bytes(content)


# -- files that must be named as bad -----------------------------------------------------------------------------------


def bomb(random: np.random.Generator, file: Path) -> None:
    """More pixels than are read, of which most are there: a file of kilobytes, gigabytes in memory."""
    depth, colour = ((1, GREY), (8, RGBA), (16, RGB))[int(random.integers(3))]
    side = int(random.integers(10_001, 60_000))
    pixels = zlib.compress(bytes(20_000_000), 1)
    file.write_bytes(SIGNATURE + header(side, side, depth, colour) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def text_bomb(random: np.random.Generator, file: Path) -> None:
    """A comment or a colour profile that grows a thousand times."""
    kind, head = ((b"zTXt", b"Title\0\0"), (b"iCCP", b"Name\0\0"))[int(random.integers(2))]
    extra = chunk(kind, head + zlib.compress(bytes(150_000_000), 1))
    file.write_bytes(png(noise(random, 3), 8, RGB, extra))


def no_image(random: np.random.Generator, file: Path) -> None:
    samples = png(noise(random, 3), 8, RGB)
    contents = [
        random.bytes(int(random.integers(1, 5000))),
        SIGNATURE,
        SIGNATURE + random.bytes(100),
        samples.replace(b"\r\n", b"\n"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"<!DOCTYPE html><title>404 Not Found</title>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        b"%PDF-1.7\n",
        b"PK\x03\x04" + bytes(30),
    ]
    file.write_bytes(contents[int(random.integers(len(contents)))])


def empty(random: np.random.Generator, file: Path) -> None:
    file.touch()


def folder(random: np.random.Generator, file: Path) -> None:
    file.mkdir()


def fifo(random: np.random.Generator, file: Path) -> None:
    os.mkfifo(file)


def link_to_fifo(random: np.random.Generator, file: Path) -> None:
    os.mkfifo(file.with_suffix(".fifo"))
    file.symlink_to(file.with_suffix(".fifo").name)


def device(random: np.random.Generator, file: Path) -> None:
    file.symlink_to(("/dev/zero", "/dev/null", "/dev/tty", "/proc/self/mem")[int(random.integers(4))])


def socket_file(random: np.random.Generator, file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(file.name)
    finally:
        os.chdir(here)


def dangling(random: np.random.Generator, file: Path) -> None:
    file.symlink_to("nosuch.png")


def loop(random: np.random.Generator, file: Path) -> None:
    if random.integers(2):
        file.symlink_to(file.name)
    else:
        file.symlink_to(file.with_suffix(".back").name)
        file.with_suffix(".back").symlink_to(file.name)


SOUND, ASK, BAD = "sound", "ask", "bad"
_8_BIT = {GREY: (8,), RGB: (8,)}
_ALL = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
# Kind, how many, what must come of it, how it is made, and what its reason says where it must be bad.
KINDS: tuple[tuple[str, int, str, Make, str], ...] = (
    ("plain", 42, SOUND, any_kind(_8_BIT, False), ""),
    ("16 bit", 60, SOUND, any_kind({GREY: (16,), RGB: (16,), GREY_ALPHA: (16,), RGBA: (16,)}, False), ""),
    ("palette", 40, SOUND, any_kind({PALETTE: (1, 2, 4, 8)}, False), ""),
    ("transparent palette", 40, SOUND, transparent_palette, ""),
    ("transparent colour", 20, SOUND, transparent_colour, ""),
    ("few bits", 40, SOUND, any_kind({GREY: (1, 2, 4)}, False), ""),
    ("alpha", 30, SOUND, any_kind({GREY_ALPHA: (8,), RGBA: (8,)}, False), ""),
    ("interlaced", 70, SOUND, any_kind(_ALL, True), ""),
    ("CMYK JPEG", 25, SOUND, other_content("JPEG", "CMYK"), ""),
    ("JPEG", 25, SOUND, other_content("JPEG", progressive=True), ""),
    ("TIFF", 10, SOUND, other_content("TIFF", compression="tiff_lzw"), ""),
    ("BMP", 10, SOUND, other_content("BMP"), ""),
    ("GIF", 5, SOUND, other_content("GIF"), ""),
    ("WebP", 5, SOUND, other_content("WEBP"), ""),
    ("tail", 10, SOUND, with_tail, ""),
    ("link out of the tree", 30, SOUND, link_out, ""),
    ("at the limit", 4, SOUND, at_the_limit, ""),
    ("bit flips", 180, ASK, bit_flips, ""),
    ("truncated", 90, ASK, truncated, ""),
    ("wrong size", 80, ASK, wrong_size, ""),
    ("wrong header", 40, ASK, wrong_header, ""),
    ("shuffled chunks", 20, ASK, shuffled_chunks, ""),
    ("lying lengths", 30, ASK, lying_lengths, ""),
    ("bomb", 14, BAD, bomb, "too large: "),
    ("text bomb", 4, BAD, text_bomb, "damaged: "),
    ("no image", 20, BAD, no_image, "not an image"),
    ("empty", 10, BAD, empty, "empty file"),
    ("folder", 8, BAD, folder, "an empty folder"),
    ("FIFO", 8, BAD, fifo, "not a regular file"),
    ("link to a FIFO", 4, BAD, link_to_fifo, "not a regular file"),
    ("device", 6, BAD, device, ""),
    ("socket", 4, BAD, socket_file, "not a regular file"),
    ("dangling link", 8, BAD, dangling, "no such file"),
    ("loop of links", 8, BAD, loop, "too many levels"),
)
