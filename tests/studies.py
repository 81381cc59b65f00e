"""Real studies on synthetic tissue, small enough to be made in seconds."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest

import bhsearch.run
from bhsearch.cli import terminal
from bhsearch.config import Settings
from bhsearch.data.images.pixel_cache import Progress
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.runtime.cache import cache_root
from bhsearch.study import runner
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.objective_factory import cached_features
from bhsearch.study.outcome.result import StudyResult
from bhsearch.study.runner import optimize
from bhsearch.tracking.upload.outbox import Outbox
from tests.shared import folder_of_run, made_once

# What every study here has: 24 cases, 19 of them for the search.
SMALL: dict[str, Any] = {
    "data": "phantom:cases=24,images=3",
    "backbones": ("staintex-s",),
    "image_size": 48,
    "folds": 3,
}
STUDY = "phantom-cases24-images3-frozen-case-optuna"
_SECONDS = 300  # far more than any command here takes: only a hang meets it


def settings(**changes: Any) -> Settings:
    """The settings of a small study."""
    return Settings(**{**SMALL, "quiet": True, "workers": 0, **changes})


def arguments(**changes: Any) -> list[str]:
    """The same as arguments of the command; in one process unless workers are asked for."""
    words = []
    for name, value in {**SMALL, "workers": 0, **changes}.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", ",".join(value) if isinstance(value, tuple) else str(value)]
    return words


def environment(**more: str) -> dict[str, str]:
    """Of a process whose store is the one of its working directory, unless `more` says otherwise."""
    kept = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    beside = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"  # MLflow starts its server by name
    return kept | {"COLUMNS": "200", "PATH": beside} | more


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m bhsearch.run` in a folder, with more variables in its environment."""
    return subprocess.run(
        [sys.executable, "-m", "bhsearch.run", *words],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )


def command_here(module: ModuleType, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which has imported the frameworks already.

    Args:
        module: Module of the command, such as `bhsearch.run`.
        *words: Its arguments.
    """
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)  # `bhsearch.run` sets its own
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", [module.__name__, *words])
        with pytest.raises(SystemExit) as caught:
            terminal.main(module.app, f"python -m {module.__name__}")
    signal.signal(signal.SIGTERM, handler)
    assert isinstance(caught.value.code, int)
    return subprocess.CompletedProcess(words, caught.value.code, out.getvalue(), err.getvalue())


@contextmanager
def working_in(folder: Path, cache: str = "") -> Iterator[None]:
    """Make a folder the working directory, with its own MLflow store, and another cache if one is given."""
    with pytest.MonkeyPatch.context() as patch:
        # MLflow keeps the stores it has opened by their address, and the default one is relative to the directory.
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        if cache:
            patch.setenv("BHSEARCH_CACHE", cache)
        patch.chdir(folder)
        yield


def run_here(folder: Path, *words: str, cache: str) -> subprocess.CompletedProcess[str]:
    """Run `bhsearch.run` in a folder, but in this process, which also logs."""
    with working_in(folder, cache), uploading_here():
        return command_here(bhsearch.run, *words)


@contextmanager
def started(folder: Path, *command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A python process in a session of its own; whatever of the session is left at the end is killed."""
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


class Killed(BaseException):
    """Ends a function as a killed process would end: at once, with what it had written before."""


@contextmanager
def killed_at(owner: Any, step: str) -> Iterator[None]:
    """The block must come to a step, and is ended there."""

    def end(*args: Any, **kwargs: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, step, end)
        with pytest.raises(Killed):
            yield


def search(**changes: Any) -> StudyResult:
    """A small study in this process. Without tracking unless it is asked for: most of the time goes there."""
    return optimize(settings(**{"tracking": False, **changes}), ProgressReporter())


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


class UploaderHere:
    """Log to MLflow as the uploader does, but in this process, which need not import TensorFlow and MLflow again."""

    refused = False

    def __init__(self, outbox: Outbox, tell: Callable[[str], None], patient: bool = False, sent: Any = None) -> None:
        self.run_id = self.experiment_id = ""
        self._outbox, self._tell, self._sent = outbox, tell, sent

    def wait_until_ready(self) -> None:
        import_mlflow()
        from bhsearch.tracking.connection import open_client
        from bhsearch.tracking.upload.writer import RunWriter

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._runs = RunWriter(open_client(), self._outbox.study(), self._tell)
        self.run_id, self.experiment_id = self._runs.run_id, self._runs.experiment_id

    def finish(self, progress: Progress) -> None:
        if not self.run_id:  # no trial was to be made, only old ones to be sent
            self.wait_until_ready()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number in self._outbox.waiting():
                run_id = self._runs.log_trial(self._outbox.trial(number))
                self._outbox.sent(number)
                self._sent(number, self.experiment_id, run_id)
            end = self._outbox.end()
            assert end is not None
            self._runs.log_end(end)
            self._outbox.close()

    def abandon(self) -> None:
        pass


@contextmanager
def uploading_here() -> Iterator[None]:
    """Log the studies of the block to MLflow in this process; for tests that are not about the uploader."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "UploaderProcess", UploaderHere)
        yield


def tracked_search(**changes: Any) -> StudyResult:
    """A small study in this process that is in MLflow afterwards."""
    with uploading_here():
        return search(tracking=True, **changes)


def wait_for(what: Any, process: subprocess.Popen[str] | None = None) -> None:
    """Wait until `what()` is true."""
    end = time.monotonic() + _SECONDS
    while not what():
        assert time.monotonic() < end, "waited too long"
        assert process is None or process.poll() is None, "the process ended before"
        time.sleep(0.01)


def trial_is_running(folder: Path) -> bool:
    """Whether a trial has started and knows its owner: it is in the objective, or about to be."""
    query = (
        "SELECT COUNT(*) FROM trials JOIN trial_system_attributes USING (trial_id) "
        "WHERE trials.state = 'RUNNING' AND key = 'bhsearch:owner'"
    )
    if not (folder / "optuna.db").exists():
        return False
    with closing(sqlite3.connect(folder / "optuna.db", timeout=10)) as database:
        try:
            return bool(database.execute(query).fetchone()[0])
        except sqlite3.OperationalError:  # the tables are being made
            return False


def optuna_trials(folder: Path, study: str = STUDY) -> list[optuna.trial.FrozenTrial]:
    """What Optuna's storage holds."""
    return optuna.load_study(study_name=study, storage=f"sqlite:///{folder}/optuna.db").trials


def import_mlflow() -> Any:
    """MLflow, imported once without the warnings that its own imports give."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
        import mlflow.keras
        import mlflow.pyfunc
        import mlflow.store.tracking.sqlalchemy_store

        from bhsearch.tracking.upload import writer

        assert writer
    return mlflow


@dataclass(frozen=True)
class Store:
    """The MLflow store of a folder, or of a server, looked at from outside."""

    folder: Path
    uri: str = ""

    @cached_property
    def client(self) -> Any:
        mlflow = import_mlflow()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client = mlflow.MlflowClient(self.uri or f"sqlite:///{self.folder}/mlflow.db")
            client.search_experiments()
        return client

    def runs(self) -> list[Any]:
        """Every run that is not deleted."""
        ids = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return list(self.client.search_runs(ids, max_results=1000))

    def parent(self) -> Any:
        """The run of the only study."""
        (run,) = [run for run in self.runs() if "mlflow.parentRunId" not in run.data.tags]
        return run

    def children(self) -> dict[int, Any]:
        """Runs of trials by number; no trial may have two."""
        runs = [run for run in self.runs() if "mlflow.parentRunId" in run.data.tags]
        numbered = {int(run.data.tags["bhsearch.trial"]): run for run in runs}
        assert len(numbered) == len(runs)
        return dict(sorted(numbered.items()))

    def files(self, run: Any) -> dict[str, Path]:
        """Artifacts of a run by their path in it."""
        root = Path(run.info.artifact_uri.removeprefix("file://"))
        if self.uri:  # a server gives its own address, and keeps them in its folder
            root = self.folder / "artifacts" / run.info.artifact_uri.partition(":/")[2]
        return {file.relative_to(root).as_posix(): file for file in sorted(root.rglob("*")) if file.is_file()}

    def record(self, run: Any, path: str) -> Any:
        """A JSON artifact."""
        return json.loads(self.files(run)[path].read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Finished:
    """A finished study.

    Attributes:
        folder: Where it was made.
        ends: How the commands ended that made it.
    """

    folder: Path
    ends: list[subprocess.CompletedProcess[str]] = field(repr=False)

    @cached_property
    def store(self) -> Store:
        return Store(self.folder)

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return optuna_trials(self.folder)


def cache_of(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The cache that the tests share; a session's fixtures are made before the one that sets it."""
    return os.environ.get("BHSEARCH_TEST_CACHE") or str(folder_of_run(tmp_path_factory) / "cache")


def fresh_cache(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache without features or pixels; converted networks, which take seconds each, are those of the other tests."""
    converted = Path(cache_of(tmp_path_factory)) / "networks"
    converted.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    (folder / "networks").symlink_to(converted)
    return str(folder)


def cache_with_networks(folder: Path, *backbones: str) -> str:
    """Fill a new cache with what does not depend on images: phantoms, and backbones that are converted and measured.

    A test that needs an empty cache for its features would else wait seconds for a process that converts.

    Args:
        folder: The new cache.
        *backbones: Backbones of a small study; `staintex-s` if none is given.
    """
    made = StudyContext.build(settings(backbones=backbones or SMALL["backbones"]), ProgressReporter())
    features = cached_features(made, ProgressReporter())
    for backbone in made.backbones.values():
        features.get(backbone, IDENTITY)
    for kind in ("networks", "speeds", "phantom"):
        for entry in (cache_root() / kind).glob("[!.]*/"):
            shutil.copytree(entry, folder / kind / entry.name)
    return str(folder)


def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Make a study of four trials, once for all tests: two in a worker, two more, and the same command again.

    Only the first command has processes of its own: for each, the frameworks are imported again.
    """
    cache = cache_of(tmp_path_factory)

    def make(folder: Path) -> Finished:
        ends = [run(folder, *arguments(trials=2, workers=1), BHSEARCH_CACHE=cache)]
        ends += [run_here(folder, *arguments(trials=4), cache=cache) for _ in range(2)]
        return Finished(folder, ends)

    return made_once(tmp_path_factory, "finished", make)


def empty_mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without a study: making its tables takes seconds, a copy of those in the cache none."""
    cache = cache_of(tmp_path_factory)

    def make(folder: Path) -> Path:
        import_mlflow()
        from bhsearch.tracking.connection import open_client

        with working_in(folder, cache):
            open_client()
        return folder / "mlflow.db"

    return made_once(tmp_path_factory, "empty-mlflow", make)
