"""The cache kept below its limit: what was not used for longest goes, and what killed processes left behind.

Nothing that a living process uses is touched, nor anything while it is being made. An entry leaves its name first, in
one step, and is deleted then: so nobody meets half of one, and any number of processes may clean at once.
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
_GONE = ".gone-"
_OLD_SECONDS = 86400  # no list of digests is written for so long
# Not a folder of entries; and what costs the most time for the least room.
_SPARED = ("locks", "digests")


def limit_bytes() -> int | None:
    """How large the cache may get: `$BHSEARCH_CACHE_LIMIT`, in gigabytes; None where that is `none`.

    Raises:
        SettingsError: If it is no such number.
    """
    text = os.environ.get(VARIABLE, "").strip() or str(DEFAULT_GB)
    if text.lower() == "none":
        return None
    with contextlib.suppress(ValueError, OverflowError):
        n_bytes = int(float(text) * 1e9)
        if n_bytes >= 0:
            return n_bytes
    raise SettingsError(f"{VARIABLE} must be a number of gigabytes, 0 or more, or none, but got {text!r}.")


def evict(root: Path, most: int | None) -> int:
    """Bring the cache below its limit, as far as it is not in use.

    Args:
        root: Folder of the cache.
        most: Bytes that it may hold; None for no limit, which still deletes what killed processes left behind.

    Returns:
        Bytes that were freed.
    """
    if not HAS_LOCKS:  # then nobody could say what is in use
        return 0
    freed = sum(_delete(folder) for folder in _leftovers(root))
    if most is None:
        return freed
    entries = [(folder, size_of(folder)) for folder in _folders(root)]
    too_many = sum(size for _, size in entries) - most
    if too_many > 0:
        used = leases.in_use(root)
        for folder, size in sorted(entries, key=lambda entry: _last_use(entry[0])):
            if too_many <= 0:
                break
            if _name(folder) not in used and _remove(root, folder):
                too_many, freed = too_many - size, freed + size
    return freed


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder; files that vanish meanwhile do not count."""
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
        if folder.parent.name not in _SPARED and not folder.name.startswith(".") and folder.is_dir()
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
    """Take an entry away, unless someone makes it, looks at it or has begun to use it."""
    with lock_within(_lock_of(folder)) as alone:
        if not alone or _name(folder) in leases.in_use(root):
            return False
        away = folder.with_name(f"{_GONE}{folder.name}-{uuid.uuid4().hex[:8]}")
        try:
            folder.rename(away)
        except OSError:  # another process was faster, or we may not
            return False
    _delete(away)
    return True


def _leftovers(root: Path) -> Iterator[Path]:
    """Drafts that nobody fills any more, entries that were taken away; locks without an entry are deleted here."""
    for folder in root.glob("*/.*"):
        if folder.is_dir() and folder.parent.name not in (*_SPARED, leases.FOLDER):
            key = folder.name.removeprefix(_GONE).lstrip(".").split("-")[0]
            with lock_within(_lock_of(folder.with_name(key))) as alone:  # whoever fills a draft holds its lock
                if alone:
                    yield folder
    for file in root.glob("*/*.lock"):
        with lock_within(file) as alone:
            if alone and not file.with_suffix("").exists():
                file.unlink(missing_ok=True)
    for file in root.glob("digests/*/.*"):
        with contextlib.suppress(OSError):  # it may be in its place by now
            if time.time() - file.stat().st_mtime > _OLD_SECONDS:
                file.unlink()


def _delete(folder: Path) -> int:
    size = size_of(folder)
    shutil.rmtree(folder, ignore_errors=True)  # another process may be at it, too
    return size
