"""Locks between processes: a file each, let go by whatever ends the process that holds it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: two processes may then both do the work; a rename still keeps one whole result
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS = fcntl is not None
_LOOK_SECONDS = 0.02


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock of this file, and hold it."""
    while True:
        with path.open("a") as stream:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX)
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
    with path.open("a") as stream:
        while not (held := seize(stream)) and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
        yield held and _is_still(path, stream)


def seize(stream: IO[str]) -> bool:
    """Lock an open file until it is closed, if nobody else has; does not wait."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_still(path: Path, stream: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except OSError:
        return False
