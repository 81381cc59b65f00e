"""A study on servers: two commands, a worker killed, MLflow and the database away for a while; nothing is lost.

`BHSEARCH_SERVERS=400 pytest -n0 -m faults tests/faults/test_servers.py` for 400 trials and longer outages.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from tests.faults.mlflow_server import mlflow_server
from tests.faults.whole import assert_whole, trials_in, workers_of
from tests.studies import STUDY, Store, arguments, environment, wait_for

# So many that the second command, which takes seconds to start, still finds some to do.
N_TRIALS = int(os.environ.get("BHSEARCH_SERVERS", "150"))
MLFLOW_AWAY, DATABASE_AWAY = N_TRIALS / 15, N_TRIALS / 45  # seconds
SECONDS = 280


def begin(folder, *words, uri):
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment(MLFLOW_TRACKING_URI=uri),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def trials_of(process, url):
    """How many trials the workers of a command have begun."""
    workers = {worker.pid for worker in workers_of(process.pid)}
    return sum(trial.system_attrs["bhsearch:owner"]["pid"] in workers for trial in trials_in(url))


@pytest.mark.faults
def test_two_commands_outlast_a_killed_worker_and_servers_that_go_away(tmp_path, database_server):
    url = database_server.new_database()
    with mlflow_server(tmp_path / "server") as server:
        options = ("--storage", url)
        words = arguments(trials=N_TRIALS, workers=2, quiet=True)
        first = begin(tmp_path / "first", "bhsearch.run", *words, *options, uri=server.uri)
        wait_for(lambda: trials_of(first, url) > 1, first)
        words = ["--study", STUDY, "--workers", "1", "--quiet"]
        second = begin(tmp_path / "second", "bhsearch.worker", *words, *options, uri=server.uri)
        try:
            wait_for(lambda: trials_of(second, url) > 0, second)
            psutil.Process(workers_of(first.pid)[0].pid).kill()
            gone = time.monotonic()
            server.stop()
            database_server.stop()
            time.sleep(DATABASE_AWAY)
            database_server.start()
            time.sleep(max(0.0, gone + MLFLOW_AWAY - time.monotonic()))
            server.start()
            outputs = [process.communicate(timeout=SECONDS)[0] for process in (first, second)]
        finally:
            for process in (first, second):
                process.kill()
        assert [process.returncode for process in (first, second)] == [0, 0], "\n".join(outputs)
        assert "password" not in "".join(outputs)
        assert database_server.password not in "".join(outputs)
        assert_whole(tmp_path / "first", N_TRIALS, url, Store(tmp_path / "server", server.uri))
        assert not (tmp_path / "second" / "outbox").exists()
