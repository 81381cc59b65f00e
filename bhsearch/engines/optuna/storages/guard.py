"""A check that the file of a storage was not deleted or replaced while it is in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bhsearch.errors import LostStorageError


class FileGuard:
    """A check that a file was not deleted or replaced, which an open connection does not notice.

    Args:
        file: Path of the file, which must exist.
        what: Description of the file for messages, such as `database`.
    """

    def __init__(self, file: Path, what: str) -> None:
        self._file, self._what = file, what
        self._identity = self._now()

    def check(self, *_: Any) -> None:
        """Raise `LostStorageError` if the file was deleted or replaced; takes about a microsecond otherwise."""
        now = self._now()
        if now != self._identity:
            how = "deleted" if now is None else "replaced by another file"
            raise LostStorageError(f"The study's {self._what} {self._file} was {how} while the command used it.")

    def _now(self) -> tuple[int, int] | None:
        try:
            found = self._file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:  # the network file system does not answer, so assume that the file is unchanged
            return getattr(self, "_identity", None)
        return found.st_dev, found.st_ino
