"""What the tests of the search share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bhsearch.search.optuna_engine import connect
from tests.studies import Finished, finished_study


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A study of four trials, made by the command in two sittings of two. Look only: others look too."""
    return finished_study(tmp_path_factory)


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Making the tables takes a second; a copy of them takes none."""
    file = tmp_path_factory.mktemp("empty") / "optuna.db"
    connect(f"sqlite:///{file}")
    return file


@pytest.fixture
def database(tmp_path: Path, _empty_database: Path) -> Callable[[str], str]:
    """URLs of fresh, empty storages by name; the same name gives the same one."""

    def url(name: str = "optuna") -> str:
        file = tmp_path / f"{name}.db"
        if not file.exists():
            shutil.copy(_empty_database, file)
        return f"sqlite:///{file}"

    return url
