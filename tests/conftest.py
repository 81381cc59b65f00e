"""What the tests share: where the real test material is, and quiet libraries."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.registered import History
    from tests.studies import Finished

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MPLBACKEND", "Agg")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared(path: str) -> Path:
    folder = SHARED / path
    if not folder.is_dir():
        pytest.skip(f"the real test material is not here: ../shared/{path}")
    return folder


@pytest.fixture(scope="session")
def breakhis() -> Path:
    """476 real BreakHis images in the original tree."""
    return _shared("data/breakhis")


@pytest.fixture(scope="session")
def idc() -> Path:
    """4,938 real patches of invasive ductal carcinoma."""
    return _shared("data/idc")


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """ImageNet weights of three small backbones."""
    return _shared("weights")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    """A store with a study and a history of registered versions. Look only: others look too."""
    from tests.registered import history_of_versions

    return history_of_versions(tmp_path_factory)


@pytest.fixture
def inside(history: History, tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """The folder of that store as working directory."""
    from tests.registered import working_in
    from tests.studies import cache_of

    with working_in(history.folder, cache_of(tmp_path_factory)):
        yield history


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the cache of the person who runs it."""
    base = os.environ.get("BHSEARCH_TEST_CACHE") or str(tmp_path_factory.getbasetemp() / "cache")
    monkeypatch.setenv("BHSEARCH_CACHE", base)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A study of four trials, made by the command in two sittings of two. Look only: others look too."""
    from tests.studies import finished_study

    return finished_study(tmp_path_factory)


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Making the tables takes a second; a copy of them takes none."""
    file = tmp_path_factory.mktemp("empty") / "optuna.db"
    from bhsearch.engines.optuna.connection import connect

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
    from tests.studies import import_mlflow

    import_mlflow()
    monkeypatch.chdir(tmp_path)
    # MLflow keeps the stores it has opened by their address, and the default one is relative to the directory.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path
