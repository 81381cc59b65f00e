"""A study in a journal, with a worker under another host name that is killed: nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest

from bhsearch.engines.optuna.storages.heartbeats import GRACE_SECONDS
from tests.faults.mlflow_server import mlflow_server
from tests.faults.whole import assert_whole, trials_in
from tests.studies import STUDY, Store, arguments, environment, wait_for

N_TRIALS = 150  # so many that the second command, which takes seconds to start, still finds some to do
HOST = "another-machine"


def begin(folder, command, uri):
    folder.mkdir()
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(MLFLOW_TRACKING_URI=uri),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def running_on(host, storage):
    found = [trial for trial in trials_in(storage) if trial.system_attrs["bhsearch:owner"]["host"] == host]
    return [trial for trial in found if trial.state.name == "RUNNING"]


@pytest.mark.faults
def test_a_worker_of_another_machine_that_dies_loses_nothing(tmp_path):
    alone = ["unshare", "--uts", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if not shutil.which("unshare") or subprocess.run([*alone, "hostname", HOST], check=False).returncode != 0:
        pytest.skip("no other host name can be simulated here")
    storage = f"journal:{tmp_path}/studies.log"
    with mlflow_server(tmp_path / "server") as server:
        words = [*arguments(trials=N_TRIALS, workers=1, quiet=True), "--storage", storage]
        first = begin(tmp_path / "first", [sys.executable, "-m", "bhsearch.run", *words], server.uri)
        wait_for(lambda: len(trials_in(storage)) > 1, first)
        worker = f"{sys.executable} -m bhsearch.worker --storage {storage} --study {STUDY} --workers 0 --quiet"
        script = f"hostname {HOST}; exec {worker}"
        second = begin(tmp_path / "second", [*alone, "sh", "-c", script], server.uri)
        try:
            wait_for(lambda: running_on(HOST, storage), second)
            os.killpg(second.pid, 9)
            second.communicate()
            held = running_on(HOST, storage)
            then = time.time() - GRACE_SECONDS - 1
            for lease in (tmp_path / "studies.log.leases").glob(f"{HOST}-*"):
                os.utime(lease, (then, then))
            output = first.communicate(timeout=200)[0]
        finally:
            first.kill()
            if second.poll() is None:
                os.killpg(second.pid, 9)
        assert first.returncode == 0, output
        store = Store(tmp_path / "server", server.uri)
        assert_whole(tmp_path / "first", N_TRIALS, storage, store)
        retried = {trial.user_attrs.get("retry_of") for trial in trials_in(storage)}
        assert {trial.number for trial in held if trial.params} <= retried
        hosts = {trial.system_attrs["bhsearch:owner"]["host"] for trial in trials_in(storage)}
        assert len(hosts) == 2
