"""Image files to arrays and digests: one way to decode, which refuses what it cannot read and never warns or hangs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import stat
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError, _imaging

from bhsearch.data.dataset import BadFile
from bhsearch.data.images import jpeg, pillow, tiff
from bhsearch.data.images.decoded import DecodedImage
from bhsearch.errors import DataError
from bhsearch.runtime import cache

# The usual endings of the formats that are read, in lower case; what a file is, its first bytes say.
IMAGE_SUFFIXES = (
    *(".png", ".apng"),
    *(".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".mpo"),
    *(".tif", ".tiff", ".btf", ".tf8"),
    *(".bmp", ".dib"),
    *(".gif", ".webp"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
)
MAX_PIXELS = 100_000_000
MAX_BYTES = 1 << 30

# Formats by content, not by suffix. Others stay closed: some start programs.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "JPEG2000")
_HEAD = 1 << 16  # bytes that tell the format, and hold the header of a JPEG
_MOST_REASON = 200  # letters of what a decoder says is wrong
_AT_ONCE = 1 << 24  # bytes of a file that are read at once
# A digest belongs to the decoders that made it: another Pillow may round a JPEG differently.
_DECODER = " ".join(["2", *(f"{name}-{metadata.version(name)}" for name in ("pillow", "tifffile", "imagecodecs"))])

# Blocks above 32 MB go back to the system when they are freed; of smaller ones, each thread would keep some for itself.
_imaging.set_block_size(1 << 26)

Progress = Callable[[int, int], None]
_Stream = io.BytesIO | io.BufferedReader
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Digests:
    """SHA-256 of one image, in hex, and what an audit wants to know of its file.

    Attributes:
        bytes_digest: Of the file's bytes.
        pixels_digest: Of the shape and the RGB bytes that `decode` returns.
        range_used: Share of the range that the samples use, 0 to 1; 1 where they have at most 8 bits.
        pages_left_out: Pages or frames of the file that are not read.
    """

    bytes_digest: str
    pixels_digest: str
    range_used: float = 1.0
    pages_left_out: int = 0


class _SuppressedWarnings:
    """Silence warnings while any thread decodes.

    `warnings.catch_warnings` swaps a list of the whole process, so two threads that each used their own would restore
    each other's state: here the first one in saves it and the last one out restores it. What Pillow warns of (odd
    metadata, sizes) is either checked here or does not touch the pixels.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(kind, error, trace)


_quiet = _SuppressedWarnings()


def decode(path: Path) -> npt.NDArray[np.uint8]:
    """Decode an image file.

    PNG, JPEG, TIFF, BMP, GIF, WebP and JPEG 2000 are read, whatever the suffix. Transparency is laid over white, the
    colour of an empty slide; samples of more than 8 bits, and floating point from 0 to 1, are scaled to 8 bits; the
    orientation is applied; of several pages or frames the first is taken (of a TIFF whose first page is a reduced copy,
    its original). Samples whose black and white nobody can know (32-bit or signed integers) are refused. Links to files
    are followed, wherever they lead.

    Returns:
        RGB, 0 to 255. Shape (height, width, 3).

    Raises:
        DataError: If the file is missing, unreadable, empty, not an image, damaged or too large.
    """
    return decode_for(path, lambda pixels: pixels)


def decode_for(path: Path, use: Callable[[npt.NDArray[np.uint8]], _Result]) -> _Result:
    """What `use` makes of the pixels of an image file. Threads that do this with large images wait for each other.

    So all of them need no more memory than one with an image of the largest size.

    Raises:
        DataError: As `decode`.
    """
    with contextlib.ExitStack() as room:
        return use(_from_file(path, room).pixels)


def decode_bytes(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode the bytes of an image file, as `decode` does.

    Raises:
        DataError: If they are not an image, damaged or too large.
    """
    if not data:
        raise DataError("empty file")
    if len(data) > MAX_BYTES:
        raise DataError(f"too large: {len(data):,} bytes, at most {MAX_BYTES:,} are read")
    with contextlib.ExitStack() as room:
        return _picture(io.BytesIO(data), room).pixels


def hash_images(
    root: Path, paths: Sequence[str], *, progress: Progress | None = None, n_threads: int | None = None
) -> list[Digests | BadFile]:
    """Digest image files, in parallel; what was digested before and has not changed since is not read again.

    Args:
        root: Data folder.
        paths: Relative to `root`.
        progress: Called with the numbers of files done and in all.
        n_threads: Default: one per core that this process may use.

    Returns:
        Digests, or what is wrong with the file, in the order of `paths`.

    Raises:
        PlaceError: If the cache of digests cannot be written, or its disk is full, be it only once images are decoded:
            then their digests are lost, and nothing else.
    """
    known = _DigestCache(root)
    results: list[Digests | BadFile | None] = []
    todo: list[tuple[int, str, _Stamp]] = []
    for at, path in enumerate(paths):
        found = _look(root, path)
        results.append(found if isinstance(found, BadFile) else known.get(path, found))
        if results[at] is None and not isinstance(found, BadFile):
            todo.append((at, path, found))
    if todo:
        known.require_writable()
    n_done = len(paths) - len(todo)
    pool = ThreadPoolExecutor(n_threads or _n_cores())
    try:
        futures: list[Future[Digests | BadFile]] = [pool.submit(_digest, root, path) for _, path, _ in todo]
        if progress is not None:
            progress(n_done, len(paths))
        for n_new, ((at, path, stamp), future) in enumerate(zip(todo, futures, strict=True), start=1):
            result = results[at] = future.result()
            if isinstance(result, Digests):
                known.add(path, stamp, result)
            if progress is not None:
                progress(n_done + n_new, len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
        known.save()  # also when interrupted: what was decoded need not be decoded again
    return [result for result in results if result is not None]


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_Stamp = tuple[int, int]


def _look(root: Path, path: str) -> _Stamp | BadFile:
    """Size and modification time (ns) of a file, or why it cannot be read; opens nothing."""
    try:
        info = (root / path).stat()
    except (OSError, ValueError) as error:
        return BadFile(path, _reason(error))
    return info.st_size, info.st_mtime_ns


def _digest(root: Path, path: str) -> Digests | BadFile:
    with contextlib.ExitStack() as room:
        try:
            return _digests_of(root / path, room)
        except DataError as error:
            return BadFile(path, str(error))


def _digests_of(file: Path, room: contextlib.ExitStack) -> Digests:
    """In a frame of its own: the pixels are gone before their room is given to another thread."""
    with _opened(file) as stream:
        of_bytes = hashlib.file_digest(stream, "sha256")
        stream.seek(0)
        picture = _picture(stream, room)
    digest = hashlib.sha256(repr(picture.pixels.shape).encode())
    digest.update(picture.pixels.data)
    return Digests(of_bytes.hexdigest(), digest.hexdigest(), picture.range_used, picture.pages_left_out)


def _from_file(path: Path, room: contextlib.ExitStack) -> DecodedImage:
    try:
        with _opened(path) as stream:
            return _picture(stream, room)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Stream]:
    """The bytes of a file; held in memory where they are few, since disks in a network answer slowly."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):  # opening a pipe would wait for ever
            raise DataError("not a regular file")
        if info.st_size > MAX_BYTES:
            raise DataError(f"too large: {info.st_size:,} bytes, at most {MAX_BYTES:,} are read")
        if info.st_size == 0:
            raise DataError("empty file")
        with path.open("rb") as file:
            yield io.BytesIO(file.read()) if info.st_size <= _AT_ONCE else file
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise DataError(_reason(error)) from error


def _reason(error: OSError | ValueError) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


class _MemoryBudget:
    """Memory for images that are being decoded: so many pixels at once, whatever the number of threads."""

    def __init__(self) -> None:
        self._queue = threading.Lock()  # whoever waits for room goes first: a large image is not passed by small ones
        self._changed = threading.Condition()
        self._taken = 0

    @contextlib.contextmanager
    def for_pixels(self, n_pixels: int) -> Iterator[None]:
        with self._queue, self._changed:
            while self._taken and self._taken + n_pixels > MAX_PIXELS:
                self._changed.wait()
            self._taken += n_pixels
        try:
            yield
        finally:
            with self._changed:
                self._taken -= n_pixels
                self._changed.notify_all()


_room = _MemoryBudget()


def _picture(stream: _Stream, room: contextlib.ExitStack) -> DecodedImage:
    """Decode; `room` is held for the pixels until the caller is done with them."""

    def claim(n_pixels: int, n_bytes: int = 0) -> None:
        if n_pixels > MAX_PIXELS:
            raise DataError(f"too large: {n_pixels:,} pixels, at most {MAX_PIXELS:,} are read")
        room.enter_context(_room.for_pixels(min(max(n_pixels, n_bytes // 4), MAX_PIXELS)))

    with _quiet:
        try:
            head = stream.read(_HEAD)
            stream.seek(0)
            if head.startswith(tiff.SIGNATURES):
                return tiff.read(stream, claim)
            with Image.open(stream, formats=_FORMATS) as image:
                claim(image.width * image.height)
                return pillow.read(image, stream, head)
        except (DataError, MemoryError):
            raise
        except UnidentifiedImageError as error:
            return _without_pillow(stream, head, claim, error)
        except Image.DecompressionBombError as error:
            raise DataError(f"too large: at most {MAX_PIXELS:,} pixels are read") from error
        except Exception as error:  # the decoders raise a dozen types on damaged files, among them SyntaxError
            reason = " ".join(str(error).split())
            raise DataError(f"damaged: {reason[:_MOST_REASON]}" if reason else "damaged") from error


def _without_pillow(
    stream: _Stream, head: bytes, claim: Callable[[int], None], error: UnidentifiedImageError
) -> DecodedImage:
    """Decode what Pillow does not know, or say what it is."""
    frame = jpeg.jpeg_frame(head)
    if frame is not None and frame.process == jpeg.JPEG_LS:
        raise DataError("JPEG-LS is not read; save it as PNG or TIFF") from error
    if frame is not None and frame.bits > 8:
        claim(frame.width * frame.height)
        stream.seek(0)
        try:
            return jpeg.read_deep(stream.read(), frame)
        except DataError:
            raise
        except Exception as damage:
            raise DataError(f"damaged: {damage}") from damage
    if frame is not None and frame.n_samples not in (1, 3, 4):
        raise DataError(f"{frame.n_samples} channels; save it as grey or RGB") from error
    raise DataError(pillow.why_not(head)) from error


class _DigestCache:
    """Digests of one data folder that outlive the process, by path, size and modification time.

    They lie in one JSON file, replaced atomically. A file that is torn, foreign or of another decoder is as good as
    none: it is written anew.
    """

    def __init__(self, root: Path) -> None:
        facts = {"digests_of": str(root.resolve())}
        self._file = cache.cache_root() / "digests" / cache.cache_key(facts) / "digests.json"
        self._header = {"decoder": _DECODER, **facts}
        self._entries: dict[str, list[Any]] = self._load()
        self._changed = False

    def _load(self) -> dict[str, list[Any]]:
        try:
            content = json.loads(self._file.read_bytes())
            entries = content.pop("entries")
            return entries if content == self._header and isinstance(entries, dict) else {}
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return {}

    def require_writable(self) -> None:
        """Fail before minutes of decoding rather than after."""
        with cache.explain_write_errors("the digests of the images"):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._file.parent):
                pass

    def get(self, path: str, stamp: _Stamp) -> Digests | None:
        entry = self._entries.get(path)
        if not isinstance(entry, list) or len(entry) != 6 or tuple(entry[:2]) != stamp:
            return None
        return Digests(str(entry[2]), str(entry[3]), float(entry[4]), int(entry[5]))

    def add(self, path: str, stamp: _Stamp, digests: Digests) -> None:
        self._entries[path] = [*stamp, *astuple(digests)]
        self._changed = True

    def save(self) -> None:
        if not self._changed:
            return
        text = json.dumps({**self._header, "entries": self._entries})
        with cache.explain_write_errors("the digests of the images"):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(prefix=".digests-", dir=self._file.parent)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    stream.write(text)
                Path(draft).replace(self._file)
            finally:
                Path(draft).unlink(missing_ok=True)
