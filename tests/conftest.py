"""What the tests share: where the real test material is, and quiet libraries."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.registered import History

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
