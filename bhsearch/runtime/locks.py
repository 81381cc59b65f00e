"""Locks between processes: a file each, let go by whatever ends the process that holds it.

Some disks know no `flock`: Lustre by default, some mounts of NFS and FUSE. There the other kind of lock is tried that
belongs to an open file, and where the disk has neither, a file of this machine's temporary folder is locked instead:
then processes on other machines are not kept out, which `without_locks` says.
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
except ImportError:  # Windows: two processes may then both do the work; a rename still keeps one whole result
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS = fcntl is not None
_LOOK_SECONDS = 0.02
_LACKING = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # what a disk without locks answers
_without: set[Path] = set()  # folders on such disks that were met


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock of this file, and hold it."""
    while True:
        with path.open("a") as stream, contextlib.ExitStack() as stack:
            if _acquire(stream, wait=True) is None and (other := stack.enter_context(_stand_in(path))):
                _acquire(other, wait=True)
            # Whoever held it may have deleted it: then others lock another file of that name by now.
            if _is_still(path, stream) or not path.parent.exists():
                yield
                return


@contextlib.contextmanager
def lock_within(path: Path, seconds: float = 0.0) -> Iterator[bool]:
    """Hold the lock of a file if nobody else does, or not for long any more: gives whether it is held.

    Raises:
        OSError: If there can be no such file.
    """
    until = time.monotonic() + seconds
    with path.open("a") as stream, contextlib.ExitStack() as stack:
        locked: IO[str] = stream
        held = _acquire(locked)
        if held is None and (other := stack.enter_context(_stand_in(path))):
            held, locked = _acquire(other), other
        while held is False and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
            held = _acquire(locked)
        yield held is not False and _is_still(path, stream)


def try_lock(stream: IO[str]) -> bool:
    """Lock an open file until it is closed, if nobody else has; does not wait. Where there are no locks, none is."""
    return bool(_acquire(stream))


def without_locks() -> list[Path]:
    """Folders on disks without locks that this process met: there, other machines and other users are not kept out."""
    return sorted(_without)


def _acquire(stream: IO[str], wait: bool = False) -> bool | None:
    """Lock an open file until it is closed: whether it is locked now; None where its disk has no locks at all."""
    if fcntl is None:
        return None
    for take in (_flock, _open_file_lock):
        try:
            take(stream.fileno(), wait)
        except OSError as error:
            if error.errno in _LACKING:
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
    """An "open file description" lock. POSIX's own would be lost as soon as the process closes the file elsewhere."""
    if not hasattr(fcntl, "F_OFD_SETLK"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(file, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, whole)


@contextlib.contextmanager
def _stand_in(path: Path) -> Iterator[IO[str] | None]:
    """A file of this machine to lock in the place of one on a disk without locks; None where there can be none."""
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


def _is_still(path: Path, stream: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except OSError:
        return False
