"""Decode image files to pixels and digests, with bounded memory; files with ambiguous content are refused."""

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
from bhsearch.data.images.decoded_image import DecodedImage
from bhsearch.errors import DataError
from bhsearch.runtime import cache

# Usual suffixes of the supported formats, in lower case. The format of a file is recognised by its content.
IMAGE_SUFFIXES = (
    *(".png", ".apng"),
    *(".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".mpo"),
    *(".tif", ".tiff", ".btf", ".tf8"),
    *(".bmp", ".dib"),
    *(".gif", ".webp"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
)
MAX_PIXELS = 100_000_000
MAX_BYTES = 1 << 30  # maximum size of a file

# Formats that Pillow may open. Other formats are excluded, since some of Pillow's plugins start external programs.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "JPEG2000")
_HEAD_BYTES = 1 << 16  # enough to recognise the format and to contain the header of a JPEG
_MAX_REASON_LETTERS = 200  # maximum length of a decoder's error message
_READ_AT_ONCE_BYTES = 1 << 24  # maximum size of files that are read into memory at once
# Versions of the decoders. Digests depend on them, since versions of Pillow may round a JPEG differently.
_DECODER = " ".join(["2", *(f"{name}-{metadata.version(name)}" for name in ("pillow", "tifffile", "imagecodecs"))])

# Use large blocks: freed blocks above 32 MB are returned to the system, while threads would keep smaller blocks.
_imaging.set_block_size(1 << 26)

Progress = Callable[[int, int], None]
_Stream = io.BytesIO | io.BufferedReader
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Digests:
    """SHA-256 digests of an image file, and facts about the file for the audit.

    Attributes:
        bytes_digest: Digest of the file's bytes. Hex.
        pixels_digest: Digest of the shape and the RGB bytes that `decode` returns. Hex.
        range_used: Used share of the sample range, 0 to 1; 1 for samples of at most 8 bits.
        pages_left_out: Number of pages or frames that are not read.
        height, width: Size in pixels of the image that `decode` returns.
    """

    bytes_digest: str
    pixels_digest: str
    range_used: float
    pages_left_out: int
    height: int
    width: int


class _SuppressedWarnings:
    """Context manager that suppresses warnings while any thread is decoding.

    `warnings.catch_warnings` changes the state of the whole process, so it cannot be used by each thread independently.
    Instead, the first thread that enters saves the state, and the last thread that leaves restores it. Warnings of
    Pillow can be ignored: unusual sizes are checked separately, and unusual metadata does not affect the pixels.
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


_warnings_suppressed = _SuppressedWarnings()


def decode(path: Path) -> npt.NDArray[np.uint8]:
    """Decode an image file to 8-bit RGB.

    PNG, JPEG, TIFF, BMP, GIF, WebP and JPEG 2000 files are recognised by content, independent of the suffix.
    Transparent images are composited over white, the colour of an empty slide. Samples with more than 8 bits, and
    floating-point samples from 0 to 1, are scaled to 8 bits. The orientation is applied. Only the first page or frame
    is read, except that a TIFF page is skipped if it is a reduced copy of another page. Samples with an unknown range,
    such as 32-bit or signed integers, are refused. Links to files are followed.

    Returns:
        RGB, 0 to 255. Shape (height, width, 3).

    Raises:
        DataError: If the file is missing, unreadable, empty, not an image, damaged, larger than `MAX_BYTES`, or has
            more than `MAX_PIXELS` pixels.
    """
    return decode_for(path, lambda pixels: pixels)


def decode_for(path: Path, use: Callable[[npt.NDArray[np.uint8]], _Result]) -> _Result:
    """Decode an image file, and return the result of a function of its pixels, with bounded memory.

    Threads wait if necessary, so that the images being decoded at the same time need no more memory than one image of
    `MAX_PIXELS` pixels.

    Args:
        path: Image file.
        use: Function of the RGB pixels, with shape (height, width, 3).

    Raises:
        DataError: See `decode`.
    """
    with contextlib.ExitStack() as reservation:
        return use(_from_file(path, reservation).pixels)


def decode_bytes(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode the content of an image file to 8-bit RGB; see `decode`.

    Raises:
        DataError: If the content is empty, not an image, damaged, larger than `MAX_BYTES`, or has more than
            `MAX_PIXELS` pixels.
    """
    if not data:
        raise DataError("empty file")
    if len(data) > MAX_BYTES:
        raise DataError(f"too large: {len(data):,} bytes; the limit is {MAX_BYTES:,} bytes")
    with contextlib.ExitStack() as reservation:
        return _decode_stream(io.BytesIO(data), reservation).pixels


def hash_images(
    root: Path, paths: Sequence[str], *, progress: Progress | None = None, n_threads: int | None = None
) -> list[Digests | BadFile]:
    """Hash image files in parallel; files with a valid cached digest are not read.

    Args:
        root: Data folder.
        paths: Paths relative to `root`.
        progress: Called with the numbers of files done and in total.
        n_threads: Number of threads; one per available core by default.

    Returns:
        The digests of each file, or a `BadFile` if the file cannot be read, in the order of `paths`.

    Raises:
        PlaceError: If the cache of digests cannot be written or the disk is full. If the error is raised after
            decoding, the new digests are lost.
    """
    known = _DigestCache(root)
    results: list[Digests | BadFile | None] = []
    todo: list[tuple[int, str, _Stamp]] = []
    for at, path in enumerate(paths):
        found = _stamp_of(root, path)
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
        known.save()  # also after an interrupt, so that finished images need not be decoded a second time
    return [result for result in results if result is not None]


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_Stamp = tuple[int, int]


def _stamp_of(root: Path, path: str) -> _Stamp | BadFile:
    """Return size and modification time (ns) of a file, or a `BadFile` if it has none, without opening the file."""
    try:
        info = (root / path).stat()
    except (OSError, ValueError) as error:
        return BadFile(path, _reason(error))
    return info.st_size, info.st_mtime_ns


def _digest(root: Path, path: str) -> Digests | BadFile:
    with contextlib.ExitStack() as reservation:
        try:
            return _digests_of(root / path, reservation)
        except DataError as error:
            return BadFile(path, str(error))


def _digests_of(file: Path, reservation: contextlib.ExitStack) -> Digests:
    """Hash a file; a separate function, so that its pixels are freed before the memory reservation is released."""
    with _opened(file) as stream:
        of_bytes = hashlib.file_digest(stream, "sha256")
        stream.seek(0)
        decoded = _decode_stream(stream, reservation)
    digest = hashlib.sha256(repr(decoded.pixels.shape).encode())
    digest.update(decoded.pixels.data)
    height, width = decoded.pixels.shape[:2]
    return Digests(of_bytes.hexdigest(), digest.hexdigest(), decoded.range_used, decoded.pages_left_out, height, width)


def _from_file(path: Path, reservation: contextlib.ExitStack) -> DecodedImage:
    try:
        with _opened(path) as stream:
            return _decode_stream(stream, reservation)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Stream]:
    """Open a file; small files are read at once, which is faster on network disks."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):  # opening a pipe would block
            raise DataError("not a regular file")
        if info.st_size > MAX_BYTES:
            raise DataError(f"too large: {info.st_size:,} bytes; the limit is {MAX_BYTES:,} bytes")
        if info.st_size == 0:
            raise DataError("empty file")
        with path.open("rb") as file:
            yield io.BytesIO(file.read()) if info.st_size <= _READ_AT_ONCE_BYTES else file
    except (OSError, ValueError) as error:  # ValueError: an impossible file name
        raise DataError(_reason(error)) from error


def _reason(error: OSError | ValueError) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


class _MemoryBudget:
    """Limit on the total number of pixels that all threads decode at the same time."""

    def __init__(self) -> None:
        self._queue = threading.Lock()  # first come, first served: later small images do not delay a large one
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


_memory_budget = _MemoryBudget()


def _decode_stream(stream: _Stream, reservation: contextlib.ExitStack) -> DecodedImage:
    """Decode a stream; memory for the pixels is reserved until `reservation` is closed."""

    def claim(n_pixels: int, n_bytes: int = 0) -> None:
        if n_pixels > MAX_PIXELS:
            raise DataError(f"too large: {n_pixels:,} pixels; the limit is {MAX_PIXELS:,} pixels")
        reservation.enter_context(_memory_budget.for_pixels(min(max(n_pixels, n_bytes // 4), MAX_PIXELS)))

    with _warnings_suppressed:
        try:
            head = stream.read(_HEAD_BYTES)
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
            raise DataError(f"too large: the limit is {MAX_PIXELS:,} pixels") from error
        except Exception as error:  # decoders raise many types on damaged files, among them SyntaxError
            reason = " ".join(str(error).split())
            raise DataError(f"damaged: {reason[:_MAX_REASON_LETTERS]}" if reason else "damaged") from error


def _without_pillow(
    stream: _Stream, head: bytes, claim: Callable[[int], None], error: UnidentifiedImageError
) -> DecodedImage:
    """Decode a file that Pillow does not recognise.

    Raises:
        DataError: If the format is not supported, or the file is damaged. The message names the format.
    """
    frame = jpeg.jpeg_frame(head)
    if frame is not None and frame.process == jpeg.JPEG_LS:
        raise DataError("JPEG-LS is not supported; save the image as PNG or TIFF") from error
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
        raise DataError(f"{frame.n_samples} channels; save the image as grey or RGB") from error
    raise DataError(pillow.why_not(head)) from error


class _DigestCache:
    """Persistent cache of digests of one data folder, by path, size and modification time.

    Digests are stored in one JSON file, which is replaced atomically. A file that is damaged, or was written with other
    decoder versions, is ignored and replaced.
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
        """Check before decoding that the cache can be written.

        Raises:
            PlaceError: If the cache cannot be written.
        """
        with cache.explain_write_errors("the digests of the images"):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._file.parent):
                pass

    def get(self, path: str, stamp: _Stamp) -> Digests | None:
        entry = self._entries.get(path)
        if not isinstance(entry, list) or len(entry) != 8 or tuple(entry[:2]) != stamp:
            return None
        return Digests(str(entry[2]), str(entry[3]), float(entry[4]), *map(int, entry[5:]))

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
