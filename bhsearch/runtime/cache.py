"""A content-addressed cache that can be deleted at any time.

An entry is a folder `<root>/<kind>/<key>`; the key is a digest of the facts that determine its content. It is filled
under a temporary name, checksummed, and renamed into place when complete. Checksums are compared on reading, so that a
damaged entry is recreated.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bhsearch.errors import PlaceError
from bhsearch.runtime import cache_eviction, leases, locks
from bhsearch.runtime.environment import cache_folder, in_private_folder
from bhsearch.runtime.locks import HAS_LOCKS, lock, lock_within

_FACTS = "entry.json"
_REMEDY = "Set BHSEARCH_CACHE=FOLDER to use another folder for the cache."
_CHUNK = 1 << 22
_EVICTION_SECONDS = 1.0  # far more than checking an unused entry and renaming it takes


@dataclass(frozen=True)
class CacheEntry:
    """One entry of the cache.

    Attributes:
        kind: Kind of content: `digests`, `pixels`, `networks`, `features`, `phantom`.
        key: Digest of the facts that determine the content.
        n_bytes: Size of its files.
        age_days: Days since the last use.
    """

    kind: str
    key: str
    n_bytes: int
    age_days: float


def cache_root() -> Path:
    """Return the folder of the cache: `$BHSEARCH_CACHE`, or the user's cache folder of the operating system.

    If that cannot be written, it is a private temporary folder.
    """
    return Path(os.environ.get("BHSEARCH_CACHE") or cache_folder())


def notes() -> list[str]:
    """Return sentences about limitations of the cache's location, once the cache has been used."""
    found = []
    if not os.environ.get("BHSEARCH_CACHE") and in_private_folder(cache_root()):
        found.append(
            f"The home folder cannot be written, so the cache is in {cache_root()}, which the system may "
            "delete. Set BHSEARCH_CACHE=FOLDER to use another folder."
        )
    lacking = locks.without_locks()
    if lacking:
        found.append(
            f"The disk of {lacking[0]} has no file locks: start commands on one machine only, as one user, or set "
            "BHSEARCH_CACHE=FOLDER to use another disk."
        )
    return found


def cache_key(facts: dict[str, Any]) -> str:
    """Return the digest of JSON-able facts, independent of the order of their keys. 24 hex digits."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def lookup(kind: str, facts: dict[str, Any]) -> Path | None:
    """Return the folder determined by `facts` if it is intact, and protect it while this process lives; else None."""
    folder = folder_of(kind, facts)
    if not acquire_lease(folder) or not _is_intact(folder):
        return None
    _mark_used(folder)
    return folder


def acquire_lease(folder: Path) -> bool:
    """Protect an entry from eviction while this process lives. Returns whether the entry exists.

    Waits for an eviction in progress, but not for the creation of an entry, which takes longer.
    """
    if folder.parent.exists():
        _lease(folder)
        with contextlib.suppress(OSError), lock_within(folder.with_suffix(".lock"), _EVICTION_SECONDS):
            return folder.exists()
    return folder.exists()  # a read-only cache is not evicted either


def folder_of(kind: str, facts: dict[str, Any]) -> Path:
    """Return the folder of the entry determined by `facts`, whether it exists or not."""
    return cache_root() / kind / cache_key(facts)


@contextlib.contextmanager
def explain_write_errors(what: str, remedy: str = _REMEDY) -> Iterator[None]:
    """Convert errors of a full or read-only disk to PlaceError.

    Args:
        what: Description of the written file, with its location.
        remedy: Sentence about what to do if the folder cannot be written.

    Raises:
        PlaceError: If the disk is full or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PlaceError(
                f"There must be disk space for {what}, but the disk is full. No partial files are left; "
                "free some space and repeat the command to continue."
            ) from error
        if isinstance(error, (PermissionError, NotADirectoryError, FileExistsError)) or error.errno == errno.EROFS:
            raise PlaceError(
                f"A writable folder is required for {what}, but got: {error.strerror}: {error.filename}. "
                f"{remedy}".rstrip()
            ) from error
        raise


def get_or_create(kind: str, facts: dict[str, Any], fill: Callable[[Path], None]) -> Path:
    """Return the folder determined by `facts`, creating it if it is missing or damaged.

    If two processes request the same entry, the second waits for the first. The entry is protected while this process
    lives. After the creation of an entry, unused ones are evicted if the cache exceeds its limit.

    Args:
        kind: First folder level.
        facts: JSON-able facts that determine the content.
        fill: Writes files, with subfolders if needed, into the empty folder it is given.

    Raises:
        PlaceError: If the cache folder cannot be written or the disk is full. No partial entry is left.
        SettingsError: If the limit of the cache is not a number.
    """
    folder, max_bytes = folder_of(kind, facts), cache_eviction.limit_bytes()
    with explain_write_errors(f"the cache entry {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock(folder.with_suffix(".lock")):
            if folder.exists() and not _is_intact(folder):
                shutil.rmtree(folder)
            is_new = not folder.exists()
            if is_new:
                _create(folder, facts, fill)
            _lease(folder)
    _mark_used(folder)
    if is_new:
        with contextlib.suppress(OSError):  # the next eviction tries again
            cache_eviction.evict(cache_root(), max_bytes)
    return folder


def entries() -> list[CacheEntry]:
    """Return all entries, largest first."""
    root = cache_root()
    found = []
    for folder in sorted(root.glob("*/*")):
        if folder.is_dir() and not folder.name.startswith("."):
            size = cache_eviction.size_of(folder)
            found.append(
                CacheEntry(folder.parent.name, folder.name, size, (time.time() - folder.stat().st_mtime) / 86400)
            )
    return sorted(found, key=lambda entry: -entry.n_bytes)


def clear() -> int:
    """Delete the whole cache. Returns the number of bytes freed."""
    root = cache_root()
    freed = sum(cache_eviction.size_of(folder) for folder in root.glob("*") if folder.name != leases.FOLDER)
    if root.exists():
        with explain_write_errors(f"clearing the cache {root}"):
            shutil.rmtree(root)
    return freed


def _lease(folder: Path) -> None:
    leases.acquire(folder.parent.parent, f"{folder.parent.name}/{folder.name}")


def _mark_used(folder: Path) -> None:
    with contextlib.suppress(OSError):  # the time of the last use is not essential
        os.utime(folder)


def _create(folder: Path, facts: dict[str, Any], fill: Callable[[Path], None]) -> None:
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fill(draft)
        files = sorted(file for file in draft.rglob("*") if file.is_file())
        sums = {file.relative_to(draft).as_posix(): _sum(file) for file in files}
        (draft / _FACTS).write_text(json.dumps({"facts": facts, "crc32": sums}, indent=1), encoding="utf-8")
        try:
            draft.rename(folder)
        except OSError:
            if not _is_intact(folder):  # otherwise another process was faster, on a disk without locks
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # does not exist after a successful rename


def _is_intact(folder: Path) -> bool:
    try:
        sums = json.loads((folder / _FACTS).read_text(encoding="utf-8"))["crc32"]
        there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {_FACTS}
        return there == sums.keys() and all(_sum(folder / name) == value for name, value in sums.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # any other form of JSON is damaged, too
        return False


def _sum(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value


@contextlib.contextmanager
def interprocess_lock(what: str, seconds: float | None = None) -> Iterator[None]:
    """Hold a named lock that one process of this machine and this cache can hold at a time.

    Args:
        what: Name of the lock.
        seconds: Timeout; None waits indefinitely.

    Raises:
        TimeoutError: If another process holds the lock until the timeout.
        PlaceError: If the folder of the locks cannot be written.
    """
    folder = cache_root() / "locks"
    with explain_write_errors(f"the lock folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{cache_key({'alone': what})}.lock"
    if seconds is None or not HAS_LOCKS:
        with lock(file):
            yield
        return
    with lock_within(file, seconds) as held:
        if not held:
            raise TimeoutError
        yield
