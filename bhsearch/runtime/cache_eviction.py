"""Evict least recently used cache entries above the size limit, and delete leftovers of killed processes.

Entries that a running process uses or creates are kept. An entry is renamed before it is deleted, so that no process
sees a partly deleted entry and several processes can evict at the same time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from bhsearch.errors import SettingsError
from bhsearch.runtime import leases
from bhsearch.runtime.locks import HAS_LOCKS, lock_within

VARIABLE = "BHSEARCH_CACHE_LIMIT"
DEFAULT_GB = 20.0
_EVICTED_PREFIX = ".gone-"
_ABANDONED_SECONDS = 86400  # age at which a draft of a digest file is deleted; writing one takes far less time
# Kinds that are never evicted: `locks` has no entries, and `digests` need little space but much time to recreate.
_KEPT_KINDS = ("locks", "digests")


def limit_bytes() -> int | None:
    """Return the size limit of the cache in bytes; None for no limit.

    The environment variable `BHSEARCH_CACHE_LIMIT` sets the limit in gigabytes, or `none`; the default is `DEFAULT_GB`.

    Raises:
        SettingsError: If the variable is neither a number of at least 0 nor `none`.
    """
    text = os.environ.get(VARIABLE, "").strip() or str(DEFAULT_GB)
    if text.lower() == "none":
        return None
    with contextlib.suppress(ValueError, OverflowError):
        n_bytes = int(float(text) * 1e9)
        if n_bytes >= 0:
            return n_bytes
    raise SettingsError(
        f"{VARIABLE} must be a non-negative number of gigabytes, or none for no limit, but got {text!r}."
    )


def evict(root: Path, max_bytes: int | None) -> int:
    """Delete leftovers of killed processes, then unused entries, least recently used first, down to `max_bytes`.

    Args:
        root: Folder of the cache.
        max_bytes: Size limit of the cache in bytes; None to delete only leftovers of killed processes.

    Returns:
        Number of bytes freed.
    """
    if not HAS_LOCKS:  # without locks, it is unknown which entries are in use
        return 0
    freed = sum(_delete(folder) for folder in _leftovers(root))
    if max_bytes is None:
        return freed
    entries = [(folder, size_of(folder)) for folder in _folders(root)]
    excess = sum(size for _, size in entries) - max_bytes
    if excess > 0:
        used = leases.in_use(root)
        for folder, size in sorted(entries, key=lambda entry: _last_use(entry[0])):
            if excess <= 0:
                break
            if _name(folder) not in used and _remove(root, folder):
                excess, freed = excess - size, freed + size
    return freed


def size_of(folder: Path) -> int:
    """Return the total size of all files in a folder in bytes; files that are deleted during the count are ignored."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(place, name).stat().st_size
    return total


def _folders(root: Path) -> list[Path]:
    return [
        folder
        for folder in root.glob("*/*")
        if folder.parent.name not in _KEPT_KINDS and not folder.name.startswith(".") and folder.is_dir()
    ]


def _last_use(folder: Path) -> float:
    with contextlib.suppress(OSError):
        return folder.stat().st_mtime
    return 0.0


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _remove(root: Path, folder: Path) -> bool:
    """Delete an entry unless a process creates, checks or uses it, and return whether the entry was deleted."""
    with lock_within(_lock_of(folder), strict=True) as alone:
        if not alone or _name(folder) in leases.in_use(root):
            return False
        try:
            away = _renamed(folder)
        except OSError:  # another process has already renamed the entry, or permission is denied
            return False
    _delete(away)
    return True


def delete_entry(folder: Path) -> None:
    """Delete an entry of which the caller knows that no other process uses it.

    Raises:
        OSError: If the entry does not exist or cannot be deleted.
    """
    _delete(_renamed(folder))
    _lock_of(folder).unlink(missing_ok=True)


def _renamed(folder: Path) -> Path:
    """Give an entry a name that is not an entry's, and return the new folder."""
    return folder.rename(folder.with_name(f"{_EVICTED_PREFIX}{folder.name}-{uuid.uuid4().hex[:8]}"))


def _leftovers(root: Path) -> Iterator[Path]:
    """Yield the folders of abandoned drafts and of renamed entries, and delete lock files without an entry."""
    for folder in root.glob("*/.*"):
        if folder.is_dir() and folder.parent.name not in (*_KEPT_KINDS, leases.FOLDER):
            key = folder.name.removeprefix(_EVICTED_PREFIX).lstrip(".").split("-")[0]
            # The lock is held while a process fills the draft.
            with lock_within(_lock_of(folder.with_name(key)), strict=True) as alone:
                if alone:
                    yield folder
    for file in root.glob("*/*.lock"):
        with lock_within(file, strict=True) as alone:
            if alone and not file.with_suffix("").exists():
                file.unlink(missing_ok=True)
    for file in root.glob("digests/*/.*"):
        with contextlib.suppress(OSError):  # the draft may have been renamed in the meantime
            if time.time() - file.stat().st_mtime > _ABANDONED_SECONDS:
                file.unlink()


def _delete(folder: Path) -> int:
    size = size_of(folder)
    shutil.rmtree(folder, ignore_errors=True)  # another process may be deleting the same folder
    return size
