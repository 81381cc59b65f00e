"""The cache of compiled programs of JAX on this machine.

JAX compiles a training step once per network, batch size and depth, which takes up to minutes on a GPU. Programs are
therefore kept on disk between processes and studies. They are machine code that JAX runs without a check, so that the
cache belongs to one user, is never in a shared folder, and is separate for each set of versions, driver and processor.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import time
import warnings
import zlib
from importlib import metadata
from pathlib import Path

from bhsearch.runtime.environment import cache_folder, is_private

FOLDER_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
_DRIVER_VERSION = Path("/sys/module/nvidia/version")
_PROCESSOR = Path("/proc/cpuinfo")
_WRITING_SECONDS = 60.0  # after which no process still writes a program


def use_cache() -> None:
    """Choose the cache of JAX before JAX is imported, unless the user has chosen one."""
    if FOLDER_VARIABLE not in os.environ and "jax" not in sys.modules:
        folder = programs_folder()
        if folder is not None:
            os.environ[FOLDER_VARIABLE] = str(folder)
            _delete_cut(folder)


def programs_folder() -> Path | None:
    """Return the folder of compiled programs, which is created with access for this user only.

    Returns:
        The folder; None if it cannot be created or if another user owns it or may write to it. In the latter case,
        there is a warning.
    """
    root = cache_folder().with_name("bhsearch-programs")
    folder = root / _machine_digest()
    try:
        for place in (root, folder):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not is_private(place):
                warnings.warn(
                    f"{place} is not used as the cache of compiled programs, because another user owns it or may write "
                    f"to it. Delete it, or set {FOLDER_VARIABLE} to another folder.",
                    stacklevel=2,
                )
                return None
    except OSError:
        return None
    return folder


def _machine_digest() -> str:
    """Return a digest of what compiled programs depend on, beside the device, which JAX includes in its own keys."""
    versions = []
    for package in ("jax", "jaxlib", "keras"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    facts = [*versions, platform.machine(), _first_line(_DRIVER_VERSION, ""), _first_line(_PROCESSOR, "flags")]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:24]


def _first_line(file: Path, start: str) -> str:
    """Return the first line of a file that begins with a word; an empty string without such a line or file."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            return next((line.strip() for line in lines if line.startswith(start)), "")
    except OSError:
        return ""


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
            if last - _WRITING_SECONDS <= written <= began - _WRITING_SECONDS and _is_cut(file):
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
