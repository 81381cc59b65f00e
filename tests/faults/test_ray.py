"""A tracked study on a Ray cluster with PostgreSQL and an MLflow server, of which a node is lost: nothing else is."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest

from tests.faults.mlflow_server import mlflow_server
from tests.faults.whole import assert_whole, trials_in
from tests.studies import STUDY, Store, arguments, environment, wait_for
from tests.study.workers.launchers.ray_cluster import ray_cluster

N_TRIALS, N_BEFORE = 60, 20


def holders_of(secret: bytes, folders: list[Path]) -> list[str]:
    """Command lines of processes, and files of folders, that contain a secret."""
    found = []
    for file in [*Path("/proc").glob("[0-9]*/cmdline"), *(file for each in folders for file in each.rglob("*"))]:
        try:
            if file.is_file() and secret in file.read_bytes():
                found.append(str(file))
        except OSError:  # a process that has ended, or a socket
            continue
    return found


@contextmanager
def closing_study(storage: str) -> Iterator[optuna.Study]:
    """The study, by one connection that is closed at the end."""
    opened = optuna.storages.RDBStorage(storage)
    try:
        yield optuna.load_study(study_name=STUDY, storage=opened)
    finally:
        opened.remove_session()
        opened.engine.dispose()


@pytest.mark.faults
def test_a_lost_node_loses_no_trial_and_no_secret_is_shown(tmp_path, database_server):
    storage = database_server.new_database()
    password = re.escape(database_server.password.rpartition("&")[2]).encode()  # the part that no URL encodes
    folder = tmp_path / "work"
    folder.mkdir()
    with mlflow_server(tmp_path / "server") as server, ray_cluster() as cluster:
        words = [*arguments(trials=N_TRIALS, workers=2), *cluster.options()]
        with subprocess.Popen(
            [sys.executable, "-m", "bhsearch.run", *words],
            cwd=folder,
            env=environment(MLFLOW_TRACKING_URI=server.uri, BHSEARCH_STORAGE=storage),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as command:
            wait_for(lambda: sum(trial.state.is_finished() for trial in trials_in(storage)) >= N_BEFORE, command)
            shown = holders_of(password, [])
            with closing_study(storage) as study:  # connecting anew takes longer than some trials
                lost = cluster.lose(study.get_trials)
            cluster.add()
            output = command.communicate(timeout=250)[0]
        assert command.returncode == 0, output
        shown += holders_of(password, [Path(cluster.logs), folder])
        store = Store(tmp_path / "server", server.uri)
        assert_whole(folder, N_TRIALS, storage, store)
        trials = trials_in(storage)
    assert trials[lost].state.name == "FAIL"
    retries = [trial.user_attrs.get("retry_of") for trial in trials].count(lost)
    assert retries <= 1, "0 if the other worker had finished the study before the loss was noticed"
    assert shown == []
    assert password.decode() not in output
    assert len({trial.system_attrs["bhsearch:owner"]["pid"] for trial in trials}) >= 2
    assert "its node or its process was lost" in " ".join(output.split())
