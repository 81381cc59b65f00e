"""What the tests share: where the real test material is, and quiet libraries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the cache of the person who runs it."""
    base = os.environ.get("BHSEARCH_TEST_CACHE") or str(tmp_path_factory.getbasetemp() / "cache")
    monkeypatch.setenv("BHSEARCH_CACHE", base)
