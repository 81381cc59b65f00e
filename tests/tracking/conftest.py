"""What the tests of the tracking share: the trials of a real study, in an outbox that nobody has emptied."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bhsearch.study import runner
from bhsearch.study.events import ProgressReporter
from bhsearch.tracking.upload.outbox import Outbox
from tests.shared import made_once
from tests.studies import NobodyLogs, Store, cache_of, settings

N_TRIALS = 3


@pytest.fixture(scope="session")
def _full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = cache_of(tmp_path_factory)

    def make(folder: Path) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BHSEARCH_CACHE", cache)
            patch.chdir(folder)
            patch.setattr(runner, "UploaderProcess", NobodyLogs)
            runner.optimize(settings(trials=N_TRIALS), ProgressReporter())
        (found,) = (folder / "outbox").iterdir()
        return found

    return made_once(tmp_path_factory, "full", make)


@pytest.fixture
def outbox(tmp_path: Path, _full: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Outbox:
    """Three finished trials, the study and its end, in a working directory of their own with an empty store."""
    monkeypatch.chdir(tmp_path)
    if not (tmp_path / "mlflow.db").exists():  # the fixture `client` may have opened one
        shutil.copy(empty_store, tmp_path / "mlflow.db")
    shutil.copytree(_full, tmp_path / "outbox" / _full.name)
    return Outbox(tmp_path / "outbox" / _full.name)


@pytest.fixture
def client(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of an empty store, which is also the one that MLflow uses by itself."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return Store(tmp_path).client
