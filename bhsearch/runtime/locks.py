"""Locks between processes: a file each, released when the process that holds it ends.

Some disks do not support `flock`: Lustre by default, some mounts of NFS and FUSE. "Open file description" locks are
tried there. If the disk has neither, a file in this machine's temporary folder is locked instead, which does not
exclude processes on other machines; `without_locks` reports such disks.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bhsearch.errors import PlaceError
from bhsearch.runtime.environment import private_folder

try:
    import fcntl
except ImportError:  # Windows: two processes may both do the work; the rename still keeps one complete result
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS = fcntl is not None
_POLL_SECONDS = 0.02
_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # errors of disks without locks
_without: set[Path] = set()  # folders on disks without locks found so far


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file, waiting until no other process holds it."""
    while True:
        with path.open("a") as stream, contextlib.ExitStack() as stack:
            if _acquire(stream, wait=True) is None and (other := stack.enter_context(_local_substitute(path))):
                _acquire(other, wait=True)
            # The former holder may have deleted the file; others then lock a new file of the same name.
            if _is_same_file(path, stream) or not path.parent.exists():
                yield
                return


@contextlib.contextmanager
def lock_within(path: Path, seconds: float = 0.0) -> Iterator[bool]:
    """Try to hold the lock of a file. Yields whether it is held.

    Args:
        path: Lock file, created if it is missing.
        seconds: Time to wait for another process.

    Raises:
        OSError: If the file cannot be created.
    """
    until = time.monotonic() + seconds
    with path.open("a") as stream, contextlib.ExitStack() as stack:
        locked: IO[str] = stream
        held = _acquire(locked)
        if held is None and (other := stack.enter_context(_local_substitute(path))):
            held, locked = _acquire(other), other
        while held is False and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
            held = _acquire(locked)
        yield held is not False and _is_same_file(path, stream)


def try_lock(stream: IO[str]) -> bool:
    """Lock an open file until it is closed, without waiting. Returns whether it was locked; False without locks."""
    return bool(_acquire(stream))


def without_locks() -> list[Path]:
    """Return the folders on disks without locks, where other machines and users are not excluded."""
    return sorted(_without)


def _acquire(stream: IO[str], wait: bool = False) -> bool | None:
    """Lock an open file until it is closed. Returns whether it is locked; None if its disk has no locks."""
    if fcntl is None:
        return None
    for take in (_flock, _open_file_lock):
        try:
            take(stream.fileno(), wait)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                continue
            if wait:
                raise
            return False
        else:
            return True
    return None


def _flock(file: int, wait: bool) -> None:
    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def _open_file_lock(file: int, wait: bool) -> None:
    """Take an "open file description" lock; a POSIX lock would be lost when the process closes the file elsewhere."""
    if not hasattr(fcntl, "F_OFD_SETLK"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(file, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, whole)


@contextlib.contextmanager
def _local_substitute(path: Path) -> Iterator[IO[str] | None]:
    """Open a local file to lock instead of one on a disk without locks; None if it cannot be created."""
    whole = path.parent.resolve() / path.name
    _without.add(whole.parent)
    with contextlib.ExitStack() as stack:
        stream = None
        with contextlib.suppress(OSError, PlaceError):
            folder = private_folder() / "locks"
            folder.mkdir(exist_ok=True)
            file = folder / f"{hashlib.sha256(os.fsencode(whole)).hexdigest()[:24]}.lock"
            stream = stack.enter_context(file.open("a"))
        yield stream


def _is_same_file(path: Path, stream: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except OSError:
        return False
