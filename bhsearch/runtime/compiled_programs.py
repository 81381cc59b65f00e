"""Folders of compiled programs on this machine, for the caches of JAX and TensorFlow.

Compiling a training step takes up to minutes on a GPU. Programs are therefore kept on disk between processes and
studies. They are machine code that is run without a check, so that the cache belongs to one user, is never in a shared
folder, and is separate for each set of versions, driver and processor.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from bhsearch.runtime.environment import cache_folder, is_private

FOLDER_NAME = "bhsearch-programs"  # parent of all folders
WRITING_SECONDS = 60.0  # after which no process still writes a program
_DRIVER_VERSION = Path("/sys/module/nvidia/version")
_PROCESSOR = Path("/proc/cpuinfo")


def programs_folder(packages: Sequence[str], setting: str, facts: Sequence[str] = ()) -> Path | None:
    """Return a folder of compiled programs, which is created with access for this user only.

    Args:
        packages: Distributions whose versions the programs depend on.
        setting: What the user may set to choose another folder, for the warning.
        facts: What the programs depend on beside these versions, the driver and the processor.

    Returns:
        The folder; None if it cannot be created or if another user owns it or may write to it. In the latter case,
        there is a warning.
    """
    root = cache_folder().with_name(FOLDER_NAME)
    folder = root / _machine_digest(packages, facts)
    try:
        for place in (root, folder):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not is_private(place):
                warnings.warn(
                    f"{place} is not used as the cache of compiled programs, because another user owns it or may write "
                    f"to it. Delete it, or set {setting} to another folder.",
                    stacklevel=2,
                )
                return None
    except OSError:
        return None
    return folder


def _machine_digest(packages: Sequence[str], facts: Sequence[str]) -> str:
    """Return a digest of what compiled programs depend on."""
    versions = []
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    features = _first_line(_PROCESSOR, ("flags", "Features"))  # of x86 and of ARM
    machine = [platform.machine(), _first_line(_DRIVER_VERSION), features]
    return hashlib.sha256("\n".join([*versions, *facts, *machine]).encode(errors="surrogateescape")).hexdigest()[:24]


def _first_line(file: Path, starts: tuple[str, ...] = ("",)) -> str:
    """Return the first line of a file that begins with one of several words; an empty string if there is none."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            return next((line.strip() for line in lines if line.startswith(starts)), "")
    except OSError:
        return ""
