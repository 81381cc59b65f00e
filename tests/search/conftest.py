"""What the tests of the search share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bhsearch.search.optuna_storage import connect
from tests.studies import Finished, finished_study, import_mlflow


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


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a store of its own."""
    import_mlflow()
    monkeypatch.chdir(tmp_path)
    # MLflow keeps the stores it has opened by their address, and the default one is relative to the directory.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path
