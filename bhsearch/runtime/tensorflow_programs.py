"""The cache of programs that XLA compiles for TensorFlow on a GPU of this machine.

TensorFlow writes a program into a draft and renames it, so that a program is whole when it appears. But a call fails if
its program cannot be read, and a damaged program may be run. Each program is therefore sealed by an empty file whose
name contains the SHA-256 digest of the program, and those without their seal are deleted before TensorFlow starts.
Callers of compiled programs must compile without the cache if a call fails, as another process may delete a program
that is about to be read. TensorFlow finds a program by the names of its functions, see `graph_names`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from bhsearch.runtime.compiled_programs import FOLDER_NAME, WRITING_SECONDS, programs_folder

FLAGS_VARIABLE = "TF_XLA_FLAGS"
_FLAG = "--tf_xla_persistent_cache_directory"
_GPUS = Path("/proc/driver/nvidia/gpus")  # folders of the GPUs
_MIN_FREE_BYTES = 1 << 30  # a call fails if the disk is full when TensorFlow writes a program
# Variables that change compiled programs, beside `TF_XLA_FLAGS`, by the start of their names.
_VARIABLES = (
    "CUBLAS",
    "CUDA_VERSION",
    "CUDNN",
    "NVIDIA_TF32_OVERRIDE",
    "NV_CUDNN_VERSION",
    "TF_CUBLAS",
    "TF_CUDNN",
    "TF_DETERMINISTIC",
    "TF_ENABLE",
    "XLA_",
)


@dataclass
class _Cache:
    """The cache of this process.

    Attributes:
        folder: Its folder; None if it is not in use.
        known: Names of the programs in the folder when it was last looked at.
        changed: Time of the last change of the folder that was looked at, in nanoseconds.
    """

    folder: Path | None = None
    known: set[str] = field(default_factory=set)
    changed: int = 0


_CACHE = _Cache()


def use_cache() -> None:
    """Choose the cache before TensorFlow is imported, unless the user has chosen one or the kind of GPU is unknown."""
    if "tensorflow" in sys.modules:
        return
    flags = user_flags(os.environ.get(FLAGS_VARIABLE, ""))
    names_file = bool(flags) and not flags.startswith("-")  # a file of flags, which TensorFlow reads instead
    folder = None if _FLAG in flags or names_file else _folder(flags)
    _CACHE.folder = folder
    if folder is not None:
        os.environ[FLAGS_VARIABLE] = f'{flags} {_FLAG}="{folder}"'.strip()
    elif flags:
        os.environ[FLAGS_VARIABLE] = flags
    else:
        os.environ.pop(FLAGS_VARIABLE, None)


def in_use() -> bool:
    """Return whether this process uses the cache."""
    return _CACHE.folder is not None


def user_flags(flags: str) -> str:
    """Return a value of `TF_XLA_FLAGS` without the flag of this module, which a parent process may have set."""
    own = rf'(?:^|\s+){_FLAG}="[^"]*{re.escape(os.sep + FOLDER_NAME + os.sep)}[^"]*"'
    return re.sub(own, "", flags).strip()


@contextlib.contextmanager
def sealing() -> Iterator[None]:
    """Seal the programs that appear in the folder during the block.

    Those of other functions that XLA compiles, such as Keras's, have names that no other process finds. They are not
    sealed, and so deleted later.
    """
    _appeared()
    yield
    for program in _appeared():
        with contextlib.suppress(OSError):
            _seal_of(program).touch(mode=0o600)


def _appeared() -> list[Path]:
    """Return the programs that appeared in the folder since the last call."""
    folder = _CACHE.folder
    if folder is None:
        return []
    with contextlib.suppress(OSError):
        changed = folder.stat().st_mtime_ns
        if changed != _CACHE.changed:
            new = [file for file in folder.glob("*.pb") if file.name not in _CACHE.known]
            _CACHE.known |= {file.name for file in new}
            _CACHE.changed = changed
            return new
    return []


def _folder(flags: str) -> Path | None:
    """Return the folder of the programs of this machine with some flags; None if the cache cannot be used."""
    gpus = _gpu_kinds()
    if not gpus:
        return None
    if len(set(gpus)) > 1:  # which of them is used depends on a variable
        gpus.append(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    variables = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)]
    packages = ("tensorflow", "keras", *_cuda_packages())
    setting = f"{FLAGS_VARIABLE}={_FLAG}=FOLDER"
    folder = programs_folder(packages, setting, [*gpus, *variables, f"{FLAGS_VARIABLE}={flags}"])
    if folder is None or set(str(folder)) & {'"', "\\"}:  # which TensorFlow would not read in flags
        return None
    try:
        _delete_unsealed(folder)
        return folder if shutil.disk_usage(folder).free >= _MIN_FREE_BYTES else None
    except OSError:
        return None


def _gpu_kinds() -> list[str]:
    """Return the models of NVIDIA's GPUs; an empty list if they are unknown."""
    kinds = []
    for file in sorted(_GPUS.glob("*/information")):
        with contextlib.suppress(OSError):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            kinds += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return kinds


def _cuda_packages() -> list[str]:
    """Return the distributions of NVIDIA that TensorFlow may require, such as cuDNN."""
    try:
        required = metadata.requires("tensorflow") or []
    except metadata.PackageNotFoundError:
        return []
    return sorted({re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in required if line.startswith("nvidia")})


def _delete_unsealed(folder: Path) -> None:
    """Delete the programs that are damaged or whose writing process ended before it sealed them, and old drafts."""
    _CACHE.known = set()
    for file in folder.glob("*.pb"):
        with contextlib.suppress(OSError):
            if _seal_of(file).exists():
                _CACHE.known.add(file.name)
            else:
                file.unlink(missing_ok=True)
    for file in folder.iterdir():
        program, is_seal, _ = file.name.partition(".pb.sha256-")
        with contextlib.suppress(OSError):
            is_old_draft = file.suffix == ".tmp" and file.stat().st_mtime < time.time() - WRITING_SECONDS
            if is_old_draft or (is_seal and not (folder / f"{program}.pb").exists()):
                file.unlink(missing_ok=True)
    _CACHE.changed = folder.stat().st_mtime_ns


def _seal_of(program: Path) -> Path:
    """Return the path of the seal of a program's content."""
    with program.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return program.with_name(f"{program.name}.sha256-{digest}")
