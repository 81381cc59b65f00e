"""The environment of a process: user name, home folder, cache folders, and telemetry of libraries.

In a container started with an arbitrary user id (`docker --user`), the user has no entry in the user database and often
no writable home folder. Without the settings of this module, libraries raise errors or create a folder called `~`.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path

from bhsearch.errors import PlaceError

NO_TELEMETRY = "MLFLOW_DISABLE_TELEMETRY"
_CONSENT = Path("intel", "openvino_telemetry")  # file in the home folder, written by OpenVINO's command `opt_in_out`
_MAX_ATTEMPTS = 20


def prepare_environment() -> None:
    """Set environment variables that libraries read on import; child processes inherit the variables.

    Telemetry is disabled unless the user enabled it. If the home folder is not writable, Keras and Matplotlib get other
    folders. Variables that the user has set are not changed.
    """
    os.environ.setdefault(NO_TELEMETRY, "true")
    if home() is None:
        # Without a home folder, MLflow, OpenVINO and platformdirs raise on import, and Keras creates a folder `~`.
        place = private_folder() / "home"
        place.mkdir(exist_ok=True)
        os.environ["HOME"] = str(place)
    if "openvino_telemetry" not in sys.modules and not _consented():
        # OpenVINO sends an event on `import openvino` unless a file in the home folder disables it. If the package
        # `openvino_telemetry` cannot be imported, OpenVINO uses a stub that sends nothing.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    if not _is_home_writable():
        os.environ.setdefault("KERAS_HOME", str(keras_home()))
        os.environ.setdefault("MPLCONFIGDIR", str(private_folder() / "matplotlib"))


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read at any time, in place of an earlier one, whose mode may be another."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(text)
    draft.replace(file)


def user_name() -> str:
    """Return the name of the user, or `uid12345` for a user without an entry in the user database."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # OSError since Python 3.13; ImportError on Windows
        return f"uid{os.getuid()}" if hasattr(os, "getuid") else "unknown"


def home() -> Path | None:
    """Return the user's home folder; None if it does not exist."""
    place = Path(os.path.expanduser("~"))  # noqa: PTH111  # unlike `Path.home`, never raises without a home folder
    return place if place.is_absolute() and place.is_dir() else None


def keras_home() -> Path:
    """Return the folder of Keras's settings and downloaded weights."""
    named, ours = os.environ.get("KERAS_HOME"), home()
    if named:
        return Path(os.path.expanduser(named))  # noqa: PTH111  # like Keras; does not raise without a home folder
    return ours / ".keras" if ours is not None and _is_home_writable() else private_folder() / "keras"


def keras_models() -> list[Path]:
    """Return the folders that may contain weights downloaded by Keras, including one in a read-only home folder."""
    ours = home()
    read_only = [ours / ".keras"] if ours is not None and not _is_home_writable() else []
    return [folder / "models" for folder in dict.fromkeys([keras_home(), *read_only])]


def cache_folder() -> Path:
    """Return the user's cache folder for this package, or a private temporary folder if the former is not writable."""
    from platformdirs import user_cache_dir

    place = Path(user_cache_dir("bhsearch"))
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    return place if os.access(there, os.W_OK | os.X_OK) else private_folder() / "cache"


def private_folder() -> Path:
    """Return a temporary folder that only this user can write to; all processes of the user get the same folder.

    Raises:
        PlaceError: If the folder cannot be created.
    """
    import tempfile

    root, user = Path(tempfile.gettempdir()), os.getuid() if hasattr(os, "getuid") else user_name()
    for number in range(_MAX_ATTEMPTS):  # another user may own a folder of this name, possibly with bad intent
        place = root / f"bhsearch-{user}{f'-{number}' if number else ''}"
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o700, exist_ok=True)
            if is_private(place):
                return place
    raise PlaceError(
        f"Cannot create a private folder for temporary files in {root}. Use another folder with TMPDIR=FOLDER."
    )


def in_private_folder(place: Path) -> bool:
    """Return whether a path is inside a folder that `private_folder` returned, now or in another process."""
    import tempfile

    root = Path(tempfile.gettempdir())
    return place.is_relative_to(root) and place.relative_to(root).parts[0].startswith("bhsearch-")


def is_private(place: Path) -> bool:
    """Return whether a path is a folder, not a link, that this user owns and only this user may write to."""
    facts = place.lstat()
    return stat.S_ISDIR(facts.st_mode) and (
        not hasattr(os, "getuid") or (facts.st_uid == os.getuid() and not facts.st_mode & 0o022)
    )


def _is_home_writable() -> bool:
    place = home()
    return place is not None and os.access(place, os.W_OK | os.X_OK)


def _consented() -> bool:
    """Return whether the user enabled OpenVINO's telemetry with `opt_in_out --opt_in`."""
    place = home()
    try:
        return place is not None and (place / _CONSENT).read_text().strip() == "1"
    except (OSError, ValueError):
        return False
