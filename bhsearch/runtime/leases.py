"""Leases, which protect the cache entries that a process uses from eviction until the process ends.

Each process lists the entries that it uses in a lease file in `<root>/.uses`, and holds a lock of this file. The lease
file of a process that has ended is no longer locked and therefore ignored.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from bhsearch.runtime.locks import HAS_LOCKS, try_lock

FOLDER = ".uses"


@dataclass
class _Lease:
    file: Path
    stream: IO[str]
    names: set[str] = field(default_factory=set)


_leases: dict[tuple[int, Path], _Lease] = {}  # by process id, which changes after a fork, and by root
_guard = threading.Lock()


def acquire(root: Path, name: str) -> None:
    """Mark an entry as used by this process until the process ends.

    The caller must check after this call, and not before, that the entry exists. If the lease file cannot be written,
    the entry remains unprotected.

    Args:
        root: Folder of the cache.
        name: Entry as `<kind>/<key>`.
    """
    if not HAS_LOCKS:
        return
    with _guard, contextlib.suppress(OSError):
        lease = _leases.get((os.getpid(), root))
        if lease is None or not lease.file.exists():  # the cache may have been deleted
            if lease is not None:
                lease.stream.close()
            lease = _leases[os.getpid(), root] = _renewed(root, lease.names if lease else set())
        if name not in lease.names:
            lease.stream.write(f"{name}\n")
            lease.stream.flush()
            lease.names.add(name)


def in_use(root: Path) -> set[str]:
    """Return the entries that running processes use, including this one, as `<kind>/<key>`.

    The function also deletes the lease files of processes that have ended.
    """
    names: set[str] = set()
    for file in (root / FOLDER).glob("*.uses"):
        with contextlib.suppress(OSError), file.open("r+", encoding="utf-8") as stream:
            if try_lock(stream):
                file.unlink()
            else:
                names.update(stream.read().splitlines())
    return names


def _release_all() -> None:
    for (pid, _), lease in _leases.items():
        if pid == os.getpid():
            with contextlib.suppress(OSError):
                lease.file.unlink(missing_ok=True)
                lease.stream.close()


atexit.register(_release_all)


def _renewed(root: Path, names: set[str]) -> _Lease:
    """Create a lease file that lists some entries, and return the lease.

    The file gets its final name after it is locked, so that no other process mistakes it for that of an ended process.
    """
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    stream = draft.open("w", encoding="utf-8")
    try:
        try_lock(stream)
        stream.writelines(f"{name}\n" for name in sorted(names))
        stream.flush()
        file = draft.with_suffix(".uses")
        draft.rename(file)
    except OSError:
        stream.close()
        draft.unlink(missing_ok=True)
        raise
    return _Lease(file, stream, set(names))
