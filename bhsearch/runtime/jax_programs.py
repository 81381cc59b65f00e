"""The cache of compiled programs of JAX on this machine."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import zlib
from pathlib import Path

from bhsearch.runtime.compiled_programs import WRITING_SECONDS, programs_folder

FOLDER_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
PACKAGES = ("jax", "jaxlib", "keras")  # JAX includes flags and device in its own keys


def use_cache() -> None:
    """Choose the cache of JAX before JAX is imported, unless the user has chosen one."""
    if FOLDER_VARIABLE not in os.environ and "jax" not in sys.modules:
        folder = programs_folder(PACKAGES, FOLDER_VARIABLE)
        if folder is not None:
            os.environ[FOLDER_VARIABLE] = str(folder)
            _delete_cut(folder)


def _delete_cut(folder: Path) -> None:
    """Delete programs whose writing was interrupted, which JAX neither runs nor replaces.

    Only files that are new since the last check are read.
    """
    stamp = folder / "checked"
    with contextlib.suppress(OSError):
        last = stamp.stat().st_mtime if stamp.exists() else 0.0
        began = time.time()
        for file in folder.glob("*-cache"):
            written = file.stat().st_mtime
            if last - WRITING_SECONDS <= written <= began - WRITING_SECONDS and _is_cut(file):
                file.unlink(missing_ok=True)
        stamp.touch()


def _is_cut(file: Path) -> bool:
    """Return whether a zlib stream is damaged; False for other formats."""
    content = file.read_bytes()
    if content[:1] != b"\x78":
        return not content
    stream = zlib.decompressobj()
    try:
        stream.decompress(content)
    except zlib.error:
        return True
    return not stream.eof
