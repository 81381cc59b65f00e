"""The surroundings of a process: its user, a home folder that may be missing, and libraries that phone home.

A container that is started as any user (`docker --user`) has no entry in the list of users and often no home folder
that can be written. The libraries below us then raise errors, or make a folder called `~`.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path

from bhsearch.errors import PlaceError

NO_TELEMETRY = "MLFLOW_DISABLE_TELEMETRY"
_CONSENT = Path("intel", "openvino_telemetry")  # file below the home folder, written by OpenVINO's opt_in_out
_MOST_PLACES = 20


def prepare_environment() -> None:
    """Set what libraries read when they are imported; child processes inherit it.

    Telemetry is off unless the user turned it on, and the folders of Keras and Matplotlib are ones that can be written.
    What the user has set is left as it is.
    """
    os.environ.setdefault(NO_TELEMETRY, "true")
    if home() is None:
        # MLflow, OpenVINO and platformdirs raise at import; Keras would make a folder called `~`.
        place = private_folder() / "home"
        place.mkdir(exist_ok=True)
        os.environ["HOME"] = str(place)
    if "openvino_telemetry" not in sys.modules and not _consented():
        # OpenVINO sends an event at `import openvino` and has no switch beside a file in the home folder; where this
        # package cannot be imported it uses a stub of its own that sends nothing.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    if not _may_write_home():
        os.environ.setdefault("KERAS_HOME", str(keras_home()))
        os.environ.setdefault("MPLCONFIGDIR", str(private_folder() / "matplotlib"))


def user_name() -> str:
    """Name of the user; `uid12345` for one that the system has no entry for."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # the last two: without an entry from Python 3.13, and on Windows
        return f"uid{os.getuid()}" if hasattr(os, "getuid") else "unknown"


def home() -> Path | None:
    """The user's home folder, or None where there is none."""
    place = Path(os.path.expanduser("~"))  # noqa: PTH111  # `Path.home` raises where this leaves the sign as it is
    return place if place.is_absolute() and place.is_dir() else None


def keras_home() -> Path:
    """Folder of Keras's settings, and of the weights that it downloads."""
    named, ours = os.environ.get("KERAS_HOME"), home()
    if named:
        return Path(os.path.expanduser(named))  # noqa: PTH111  # as Keras does: it does not raise without a home
    return ours / ".keras" if ours is not None and _may_write_home() else private_folder() / "keras"


def keras_models() -> list[Path]:
    """Folders where Keras may have put weights before: its own, and that of a home folder that can only be read."""
    ours = home()
    read_only = [ours / ".keras"] if ours is not None and not _may_write_home() else []
    return [folder / "models" for folder in dict.fromkeys([keras_home(), *read_only])]


def cache_folder() -> Path:
    """The operating system's cache folder for this package, or a private temporary one where it cannot be written."""
    from platformdirs import user_cache_dir

    place = Path(user_cache_dir("bhsearch"))
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    return place if os.access(there, os.W_OK | os.X_OK) else private_folder() / "cache"


def private_folder() -> Path:
    """A temporary folder that belongs to this user alone, the same one for all processes of the user.

    Raises:
        PlaceError: If there can be none.
    """
    import tempfile

    root, user = Path(tempfile.gettempdir()), os.getuid() if hasattr(os, "getuid") else user_name()
    for number in range(_MOST_PLACES):  # others may have taken a name, perhaps to see or change what is written
        place = root / f"bhsearch-{user}{f'-{number}' if number else ''}"
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o700, exist_ok=True)
            if _is_private(place):
                return place
    raise PlaceError(
        f"A folder of one's own is needed for temporary files, but {root} cannot hold one. TMPDIR=FOLDER names another "
        "place."
    )


def in_private_folder(place: Path) -> bool:
    """Whether a place is below such a folder."""
    import tempfile

    root = Path(tempfile.gettempdir())
    return place.is_relative_to(root) and place.relative_to(root).parts[0].startswith("bhsearch-")


def _is_private(place: Path) -> bool:
    facts = place.lstat()
    return stat.S_ISDIR(facts.st_mode) and (
        not hasattr(os, "getuid") or (facts.st_uid == os.getuid() and not facts.st_mode & 0o022)
    )


def _may_write_home() -> bool:
    place = home()
    return place is not None and os.access(place, os.W_OK | os.X_OK)


def _consented() -> bool:
    """Whether the user turned OpenVINO's telemetry on, with its `opt_in_out --opt_in`."""
    place = home()
    try:
        return place is not None and (place / _CONSENT).read_text().strip() == "1"
    except (OSError, ValueError):
        return False
