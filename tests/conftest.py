"""What the tests share: where the real test material is, and quiet libraries."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
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
# Files of a minute and more. A process takes one file after another: a long one at the end would leave the others idle.
LONG = (
    "faults/test_surroundings.py",
    "faults/test_disk.py",
    "faults/test_slurm.py",
    "test_docs.py",
    "study/test_study_survives.py",
    "extend/test_extend.py",
    "contracts/test_engines.py",
    "cli/test_report.py",
    "experiments/test_notebooks.py",
    "study/resume/test_lost_storage.py",
    "study/test_runner.py",
    "lifecycle/test_register.py",
    "experiments/test_experiments.py",
    "tracking/test_requests.py",
    "tracking/upload/test_uploader.py",
    "study/test_runner_finetune.py",
    "reporting/test_study_report.py",
    "study/outcome/test_robustness.py",
    "faults/test_images.py",
    "experiments/test_null_studies.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))


def pytest_runtest_setup() -> None:
    """Skip what begins after the time that `.ci/run` has for its parts; on most machines nothing does."""
    end = os.environ.get("BHSEARCH_TESTS_END", "")  # seconds since 1970
    if end and time.time() > float(end):
        pytest.skip("no time is left in this run")


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
def inside(history: History, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> History:
    """The folder of that store as working directory."""
    from tests.registered import work_in
    from tests.studies import cache_of

    # With the test's own patch: one that ended earlier would let the test's patch bring this store back at its end.
    work_in(history.folder, cache_of(tmp_path_factory), monkeypatch)
    return history


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the cache of the person who runs it."""
    from tests.studies import cache_of

    monkeypatch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A study of four trials, made by the command in two sittings of two. Look only: others look too."""
    from tests.studies import finished_study

    return finished_study(tmp_path_factory)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Optuna database without a study: making its tables takes a second, a copy of them none."""
    from bhsearch.engines.optuna.storages.connection import connect
    from tests.shared import made_once

    def make(folder: Path) -> Path:
        connect(f"sqlite:///{folder}/optuna.db")
        return folder / "optuna.db"

    return made_once(tmp_path_factory, "empty-optuna", make)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without a study."""
    from tests.studies import empty_mlflow_database

    return empty_mlflow_database(tmp_path_factory)


@pytest.fixture
def database(tmp_path: Path, empty_database: Path) -> Callable[[str], str]:
    """URLs of fresh, empty storages by name; the same name gives the same one."""

    def url(name: str = "optuna") -> str:
        file = tmp_path / f"{name}.db"
        if not file.exists():
            shutil.copy(empty_database, file)
        return f"sqlite:///{file}"

    return url


@pytest.fixture
def here(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an empty MLflow store of its own."""
    from tests.studies import import_mlflow

    import_mlflow()
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    # MLflow keeps the stores it has opened by their address, and the default one is relative to the directory.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path
