"""A content-addressed cache that can be deleted at any time.

An entry is a folder `<root>/<kind>/<key>`, where the key is a digest of the facts it was made from. It appears under
its name only when it is whole: it is filled under another name, summed, and renamed. On reading the sums are compared,
so that a torn or damaged entry is made again rather than believed.
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
_REMEDY = "BHSEARCH_CACHE=FOLDER names another place for the cache."
_CHUNK = 1 << 22
_CLEANING_SECONDS = 1.0  # far more than it takes to see that an entry is not used, and to rename it


@dataclass(frozen=True)
class CacheEntry:
    """One folder of the cache.

    Attributes:
        kind: What it holds: `digests`, `pixels`, `networks`, `features`, `phantom`.
        key: Digest of the facts it was made from.
        n_bytes: Size of its files.
        age_days: Days since it was last used.
    """

    kind: str
    key: str
    n_bytes: int
    age_days: float


def cache_root() -> Path:
    """Folder of the cache: `$BHSEARCH_CACHE`, else the operating system's cache folder of the user.

    Where that cannot be written it is a temporary folder of the user's own.
    """
    return Path(os.environ.get("BHSEARCH_CACHE") or cache_folder())


def notes() -> list[str]:
    """What a user should know of the places where files are kept; call it when they have been used."""
    found = []
    if not os.environ.get("BHSEARCH_CACHE") and in_private_folder(cache_root()):
        found.append(
            f"There is no home folder that can be written, so the cache is in {cache_root()}, which the system may "
            "empty. BHSEARCH_CACHE=FOLDER names another place."
        )
    lacking = locks.without_locks()
    if lacking:
        found.append(
            f"The disk of {lacking[0]} has no file locks: start commands from one machine only, as one user, or name a "
            "cache on another disk with BHSEARCH_CACHE=FOLDER."
        )
    return found


def cache_key(facts: dict[str, Any]) -> str:
    """Digest of JSON-able facts, independent of the order of their keys."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def lookup(kind: str, facts: dict[str, Any]) -> Path | None:
    """The folder made from `facts`, if it is there and whole; it then stays for as long as this process lives."""
    folder = folder_of(kind, facts)
    if not acquire_lease(folder) or not _is_whole(folder):
        return None
    _touch(folder)
    return folder


def acquire_lease(folder: Path) -> bool:
    """Keep an entry from being cleaned for as long as this process lives. Returns whether it is there at all.

    Does not wait for one that is being made: that takes longer than to clean, which alone is to be waited for here.
    """
    if folder.parent.exists():
        _take(folder)
        with contextlib.suppress(OSError), lock_within(folder.with_suffix(".lock"), _CLEANING_SECONDS):
            return folder.exists()
    return folder.exists()  # a cache that may only be read is not cleaned either


def folder_of(kind: str, facts: dict[str, Any]) -> Path:
    """Where the entry made from `facts` lies, whether it is there or not."""
    return cache_root() / kind / cache_key(facts)


@contextlib.contextmanager
def explain_write_errors(what: str, remedy: str = _REMEDY) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into a sentence.

    Args:
        what: What is written, with its place.
        remedy: A sentence: what to do where the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PlaceError(
                f"There must be room for {what}, but the disk is full. Nothing half-made was left there; "
                "free some space, and the same command goes on."
            ) from error
        if isinstance(error, (PermissionError, NotADirectoryError, FileExistsError)) or error.errno == errno.EROFS:
            raise PlaceError(
                f"A folder that can be written is needed for {what}, but got: {error.strerror}: {error.filename}. "
                f"{remedy}".rstrip()
            ) from error
        raise


def get_or_create(kind: str, facts: dict[str, Any], fill: Callable[[Path], None]) -> Path:
    """Return the folder made from `facts`, filling it first where it is missing or damaged.

    Two processes that ask for the same entry do the work once: the second waits for the first. The entry stays for as
    long as this process lives; after a new one was made, those that nobody uses are cleaned if they are too much.

    Args:
        kind: First folder level, for listing.
        facts: JSON-able facts that the content is a function of.
        fill: Writes files, in folders if it likes, into the empty folder it is given.

    Raises:
        PlaceError: If the cache folder cannot be written, or the disk is full; no broken entry is left.
        SettingsError: If the limit of the cache is no number.
    """
    folder, most = folder_of(kind, facts), cache_eviction.limit_bytes()
    with explain_write_errors(f"the cache entry {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock(folder.with_suffix(".lock")):
            if folder.exists() and not _is_whole(folder):
                shutil.rmtree(folder)
            is_new = not folder.exists()
            if is_new:
                _make(folder, facts, fill)
            _take(folder)
    _touch(folder)
    if is_new:
        with contextlib.suppress(OSError):  # what could not be cleaned is with the next entry
            cache_eviction.evict(cache_root(), most)
    return folder


def entries() -> list[CacheEntry]:
    """All entries, largest first."""
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
    """Delete the whole cache. Returns the bytes freed."""
    root = cache_root()
    freed = sum(cache_eviction.size_of(folder) for folder in root.glob("*") if folder.name != leases.FOLDER)
    if root.exists():
        with explain_write_errors(f"clearing the cache {root}"):
            shutil.rmtree(root)
    return freed


def _take(folder: Path) -> None:
    leases.acquire(folder.parent.parent, f"{folder.parent.name}/{folder.name}")


def _touch(folder: Path) -> None:
    with contextlib.suppress(OSError):  # the time of last use is a convenience for cleaning, not worth failing for
        os.utime(folder)


def _make(folder: Path, facts: dict[str, Any], fill: Callable[[Path], None]) -> None:
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fill(draft)
        files = sorted(file for file in draft.rglob("*") if file.is_file())
        sums = {file.relative_to(draft).as_posix(): _sum(file) for file in files}
        (draft / _FACTS).write_text(json.dumps({"facts": facts, "crc32": sums}, indent=1), encoding="utf-8")
        try:
            draft.rename(folder)
        except OSError:
            if not _is_whole(folder):  # else another process was quicker, on a disk without locks
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # gone already when the rename succeeded


def _is_whole(folder: Path) -> bool:
    try:
        sums = json.loads((folder / _FACTS).read_text(encoding="utf-8"))["crc32"]
        there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {_FACTS}
        return there == sums.keys() and all(_sum(folder / name) == value for name, value in sums.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # JSON of another form is damage, too
        return False


def _sum(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value


@contextlib.contextmanager
def interprocess_lock(what: str, seconds: float | None = None) -> Iterator[None]:
    """One process of this machine and this cache at a time in all that is named `what`.

    Args:
        what: A name.
        seconds: To wait for another process that is in it; for ever where None.

    Raises:
        TimeoutError: If another process stays in it.
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
