"""What the tests of the tracking share: the trials of a real study, in an outbox that nobody has emptied."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from bhsearch.data.images.pixel_cache import Progress
from bhsearch.study import runner
from bhsearch.study.events import ProgressReporter
from bhsearch.tracking.upload.outbox import Outbox
from tests.studies import cache_of, import_mlflow, settings

N_TRIALS = 3


class NobodyLogs:
    """Stands where the process that logs would: what it would have sent stays in the outbox."""

    run_id = "none"
    experiment_id = ""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def wait_until_ready(self) -> None:
        pass

    def finish(self, progress: Progress) -> None:
        pass


@pytest.fixture(scope="session")
def _full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
        patch.chdir(folder)
        patch.setattr(runner, "UploaderProcess", NobodyLogs)
        runner.optimize(settings(trials=N_TRIALS), ProgressReporter())
    (found,) = (folder / "outbox").iterdir()
    return found


@pytest.fixture
def outbox(tmp_path: Path, _full: Path, monkeypatch: pytest.MonkeyPatch) -> Outbox:
    """Three finished trials, the study and its end, in a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(_full, tmp_path / "outbox" / _full.name)
    return Outbox(tmp_path / "outbox" / _full.name)


@pytest.fixture(scope="session")
def _empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Making the tables takes seconds; a copy of them takes none."""
    folder = tmp_path_factory.mktemp("store")
    _client(folder)
    return folder / "mlflow.db"


@pytest.fixture
def client(tmp_path: Path, _empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of an empty store, which is also the one that MLflow uses by itself."""
    shutil.copy(_empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return _client(tmp_path)


def _client(folder: Path) -> Any:
    mlflow = import_mlflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
        client.search_experiments()
    return client
