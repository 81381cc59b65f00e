"""A cache on disk, which can be deleted at any time.

An entry of the cache is a folder `<root>/<kind>/<key>`. The key is a digest of the facts that determine the content of
the entry, such as the data and the settings. A new entry is written under a temporary name, checksummed, and renamed
when complete. The checksums are compared on reading, and a damaged entry is recreated.
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
_EVICTION_SECONDS = 1.0  # much longer than the eviction of one entry (a check and a rename) holds its lock


@dataclass(frozen=True)
class CacheEntry:
    """A description of one entry of the cache.

    Attributes:
        kind: Kind of content: `archives`, `databases`, `digests`, `pixels`, `networks`, `speeds`, `parts`, `features`,
            `precisions`, `vectors` or `phantom`.
        key: Digest of the facts that determine the content.
        n_bytes: Total size of the files in bytes.
        age_days: Days since the last use.
    """

    kind: str
    key: str
    n_bytes: int
    age_days: float


def cache_root() -> Path:
    """Return the folder of the cache.

    The folder is `$BHSEARCH_CACHE` if set, otherwise the user's cache folder of the operating system, or a private
    temporary folder if the user's cache folder is not writable.
    """
    return Path(os.environ.get("BHSEARCH_CACHE") or cache_folder())


def notes() -> list[str]:
    """Return warnings about the location of the cache, for users; call this function after the cache has been used."""
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
    """Return a digest of JSON-compatible facts as 24 hexadecimal digits, independent of the order of the keys."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def lookup(kind: str, facts: dict[str, Any]) -> Path | None:
    """Return the folder of an entry, and protect the entry from eviction until this process ends.

    Args:
        kind: Kind of content.
        facts: JSON-compatible facts that determine the content.

    Returns:
        Folder of the entry; None if the entry does not exist or is damaged.
    """
    folder = folder_of(kind, facts)
    if not acquire_lease(folder) or not _is_intact(folder):
        return None
    _mark_used(folder)
    return folder


def acquire_lease(folder: Path) -> bool:
    """Protect an entry from eviction until this process ends, and return whether the entry exists.

    The function waits for an eviction in progress, but not for the creation of the entry, which takes longer.
    """
    if folder.parent.exists():
        _lease(folder)
        with contextlib.suppress(OSError), lock_within(folder.with_suffix(".lock"), _EVICTION_SECONDS):
            return folder.exists()
    return folder.exists()  # reached if the cache is read-only, so that no entry can be evicted


def folder_of(kind: str, facts: dict[str, Any]) -> Path:
    """Return the folder of the entry that `facts` determine; the folder may not exist."""
    return cache_root() / kind / cache_key(facts)


@contextlib.contextmanager
def explain_write_errors(what: str, remedy: str = _REMEDY) -> Iterator[None]:
    """Convert errors of a full or read-only disk in the block to `PlaceError`.

    Args:
        what: Description of the file that is written, with its path, for the message.
        remedy: Advice for the message if the folder cannot be written.

    Raises:
        PlaceError: If the disk is full or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PlaceError(
                f"The disk is full while writing {what}. No partial files are left; free some space, and repeat the "
                "command to continue."
            ) from error
        if (
            isinstance(error, (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError))
            or error.errno == errno.EROFS
        ):
            raise PlaceError(f"Cannot write {what}: {error.strerror}: {error.filename}. {remedy}".rstrip()) from error
        raise


def get_or_create(kind: str, facts: dict[str, Any], fill: Callable[[Path], None]) -> Path:
    """Return the folder of an entry; create the entry if it is missing or damaged.

    If two processes request the same entry, the second one waits until the first one has created it. The entry is
    protected from eviction until this process ends. After an entry has been created, least recently used entries are
    evicted if the cache exceeds its size limit.

    Args:
        kind: Kind of content, which is the first folder level.
        facts: JSON-compatible facts that determine the content.
        fill: Function that receives an empty folder and writes the content, with subfolders if needed.

    Raises:
        PlaceError: If the cache folder cannot be written or the disk is full; no partial entry is left behind.
        SettingsError: If the size limit of the cache is not a number.
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
        with contextlib.suppress(OSError):  # a failed eviction is repeated after the next entry is created
            cache_eviction.evict(cache_root(), max_bytes)
    return folder


def discard(kind: str, facts: dict[str, Any]) -> None:
    """Delete an entry that no other process uses; does nothing if it does not exist or cannot be deleted.

    Args:
        kind: Kind of content.
        facts: Facts that determine the content.
    """
    with contextlib.suppress(OSError):
        cache_eviction.delete_entry(folder_of(kind, facts))


def entries() -> list[CacheEntry]:
    """Return a description of every entry, largest first."""
    root = cache_root()
    found = []
    for folder in sorted(root.glob("*/*")):
        if folder.is_dir() and not folder.name.startswith("."):
            size = cache_eviction.size_of(folder)
            found.append(
                CacheEntry(folder.parent.name, folder.name, size, (time.time() - folder.stat().st_mtime) / 86400)
            )
    return sorted(found, key=lambda entry: -entry.n_bytes)


def facts_of_entries(kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the folder of each entry of a kind, and the facts that determine its content.

    The entries are neither checked nor protected from eviction, and one whose facts cannot be read is left out.
    """
    for folder in sorted((cache_root() / kind).glob("[!.]*")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            yield folder, dict(json.loads((folder / _FACTS).read_text(encoding="utf-8"))["facts"])


def clear() -> int:
    """Delete the whole cache, and return the number of bytes freed."""
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
            if not _is_intact(folder):  # on a disk without locks, another process may have created the entry first
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # after a successful rename, the draft no longer exists


def _is_intact(folder: Path) -> bool:
    try:
        sums = json.loads((folder / _FACTS).read_text(encoding="utf-8"))["crc32"]
        there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {_FACTS}
        return there == sums.keys() and all(_sum(folder / name) == value for name, value in sums.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # the file is unreadable or has another format
        return False


def _sum(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value


@contextlib.contextmanager
def interprocess_lock(what: str, seconds: float | None = None) -> Iterator[None]:
    """Hold a named lock, which only one process at a time can hold among those of this machine that share the cache.

    Args:
        what: Name of the lock.
        seconds: Time limit for acquiring the lock; None to wait indefinitely.

    Raises:
        TimeoutError: If the lock cannot be acquired within the time limit.
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
