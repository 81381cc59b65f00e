"""What is made once for a whole run of the tests, by whichever of its processes asks first."""

from __future__ import annotations

import pickle
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest

from bhsearch.runtime.locks import lock

_Made = TypeVar("_Made")
_known: dict[str, object] = {}  # what this process has made or read


def folder_of_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all processes of a run share: pytest-xdist gives each of them a folder below it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], _Made]) -> _Made:
    """Return what `make` returns for a folder of this name; one process of the run calls it, the others wait.

    The folder is used where it was made, because MLflow stores absolute paths. Tests must not write to it.

    Args:
        tmp_path_factory: The fixture of pytest.
        name: Name of the folder.
        make: Fills the folder. Its result must be picklable.
    """
    if name not in _known:
        folder = folder_of_run(tmp_path_factory) / name
        result = folder.with_name(f"{name}.pickle")
        with lock(folder.with_name(f"{name}.lock")):
            if not result.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process in which `make` failed
                folder.mkdir()
                made = pickle.dumps(make(folder))
                result.write_bytes(made)
            _known[name] = pickle.loads(result.read_bytes())
    return _known[name]  # type: ignore[return-value]


def copy_database(source: Path, target: Path) -> None:
    """Copy an SQLite database, including what lies in its write-ahead log."""
    with closing(sqlite3.connect(source)) as original, closing(sqlite3.connect(target)) as copy:
        original.backup(copy)
