"""File locks between processes, which the operating system releases when the process that holds the lock ends.

Some file systems do not support `flock`, such as Lustre by default and some mounts of NFS and FUSE; "open file
description" locks are tried in this case. If the file system supports neither, a file in the temporary folder of this
machine is locked instead, which does not exclude processes on other machines. `without_locks` reports this case.
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
except ImportError:  # on Windows there are no locks: two processes may create the same cache entry, and one is kept
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS = fcntl is not None
_POLL_SECONDS = 0.02
_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # errors of file systems without locks
_without: set[Path] = set()  # folders on file systems without locks, as found so far


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file during the block; waits until no other process holds the lock.

    Args:
        path: Lock file, which is created if it does not exist.
    """
    while True:
        with path.open("a") as stream, contextlib.ExitStack() as stack:
            if _acquire(stream, wait=True) is None and (other := stack.enter_context(_local_substitute(path))):
                _acquire(other, wait=True)
            # If the previous holder deleted the file, other processes lock a new file of the same name, so try again.
            if _is_same_file(path, stream) or not path.parent.exists():
                yield
                return


@contextlib.contextmanager
def lock_within(path: Path, seconds: float = 0.0, strict: bool = False) -> Iterator[bool]:
    """Try to hold the lock of a file during the block, and yield whether the lock is held.

    Args:
        path: Lock file, which is created if it does not exist.
        seconds: Time limit for acquiring the lock.
        strict: Whether to yield False where there are no locks at all, neither of the file nor on this machine. Other
            processes may then be working with the file.

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
        yield (held is True if strict else held is not False) and _is_same_file(path, stream)


def try_lock(stream: IO[str]) -> bool:
    """Try to lock an open file until it is closed, without waiting, and return whether it was locked.

    False is also returned if the file system does not support locks.
    """
    return bool(_acquire(stream))


def without_locks() -> list[Path]:
    """Return the folders on file systems without locks, where locks do not exclude other machines and users."""
    return sorted(_without)


def _acquire(stream: IO[str], wait: bool = False) -> bool | None:
    """Lock an open file until it is closed.

    Args:
        stream: Open file.
        wait: Whether to wait until no other process holds the lock.

    Returns:
        Whether the file is locked; None if the file system does not support locks.
    """
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
    """Acquire an "open file description" lock.

    A POSIX lock would be released as soon as the process closes any other handle of the same file.
    """
    if not hasattr(fcntl, "F_OFD_SETLK"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(file, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, whole)


@contextlib.contextmanager
def _local_substitute(path: Path) -> Iterator[IO[str] | None]:
    """Open a local file that is locked instead of a file on a file system without locks.

    Yields None if the local file cannot be created.
    """
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
