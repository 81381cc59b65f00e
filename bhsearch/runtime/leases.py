"""Which entries of the cache are in use: each process keeps a list of those that it took, for as long as it lives.

A list is a file in `<root>/.uses` that its process has locked. So a list that nobody has locked is one of a process
that is gone, however it went, and counts no more.
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


_leases: dict[tuple[int, Path], _Lease] = {}  # by process, since a fork is another, and by root
_guard = threading.Lock()


def acquire(root: Path, name: str) -> None:
    """Say that this process uses an entry, `<kind>/<key>`, until it ends. Look whether it is there only then.

    Where the list cannot be written the entry is used all the same, only without protection.
    """
    if not HAS_LOCKS:
        return
    with _guard, contextlib.suppress(OSError):
        lease = _leases.get((os.getpid(), root))
        if lease is None or not lease.file.exists():  # the whole cache may have been deleted
            if lease is not None:
                lease.stream.close()
            lease = _leases[os.getpid(), root] = _renewed(root, lease.names if lease else set())
        if name not in lease.names:
            lease.stream.write(f"{name}\n")
            lease.stream.flush()
            lease.names.add(name)


def in_use(root: Path) -> set[str]:
    """Entries that living processes use, this one included; lists of the dead are deleted."""
    names: set[str] = set()
    for file in (root / FOLDER).glob("*.uses"):
        with contextlib.suppress(OSError), file.open("r+", encoding="utf-8") as stream:
            if try_lock(stream):
                file.unlink()
            else:
                names.update(stream.read().splitlines())
    return names


def _give_back() -> None:
    for (pid, _), lease in _leases.items():
        if pid == os.getpid():
            with contextlib.suppress(OSError):
                lease.file.unlink(missing_ok=True)
                lease.stream.close()


atexit.register(_give_back)


def _renewed(root: Path, names: set[str]) -> _Lease:
    """A locked list. Under its name only then, or it would be taken for one of the dead."""
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
