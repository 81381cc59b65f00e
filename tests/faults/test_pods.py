"""The Job of `--launcher kubernetes` in pods that this machine imitates: one is killed, one evicted, nothing is lost.

A pod here has its own host name and process ids, and runs the command of the manifest with its variables and those of
the Secret's file as process 1. The places of the manifest are folders of the test. What only Kubernetes does is not
tested: scheduling, mounting, users, limits.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest
import yaml

from tests.faults.mlflow_server import mlflow_server
from tests.faults.whole import assert_whole, trials_in
from tests.studies import STUDY, Store, arguments, environment, run, wait_for

N_TRIALS, N_PODS = 150, 3
_ALONE = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
pytestmark = pytest.mark.faults


class Pod:
    """A pod of an index of a Job."""

    def __init__(self, folder, documents, secret, index):
        config, job = documents
        (container,) = job["spec"]["template"]["spec"]["containers"]
        self.host = f"{job['metadata']['name']}-{index}"
        work = folder / f"work-{index}"
        shutil.rmtree(work, ignore_errors=True)  # an emptyDir
        work.mkdir()
        settings = folder / "etc"
        settings.mkdir(exist_ok=True)
        for name, text in config["data"].items():
            (settings / name).write_text(text)
        plain = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        variables = {**secret, **plain, "HOME": str(work), "JOB_COMPLETION_INDEX": str(index)}
        shell, option, script = container["command"]
        script = f"hostname {self.host}\n" + script.replace("/etc/bhsearch", str(settings))
        self._process = subprocess.Popen(
            [*_ALONE, *([] if os.geteuid() == 0 else ["--map-root-user"]), shell, option, script, "pod"],
            cwd=work,
            env=environment(**variables, PATH=f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def send(self, number):
        """Send a signal to process 1 of the pod."""
        (first,) = psutil.Process(self._process.pid).children()
        first.send_signal(number)

    def end(self):
        """Wait for the end, and return exit code and log."""
        log = self._process.communicate(timeout=480)[0]
        return self._process.returncode, log

    def discard(self):
        self._process.kill()
        self._process.communicate()


def test_a_job_whose_pods_are_killed_and_evicted_is_finished_by_their_replacements(tmp_path):
    if not shutil.which("unshare") or subprocess.run([*_ALONE, "hostname", "pod"], check=False).returncode != 0:
        pytest.skip("no other host name and process ids can be simulated here")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bhsearch").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bhsearch "$@"\n')
    (tmp_path / "bin" / "bhsearch").chmod(0o755)
    storage = f"journal:{tmp_path}/cache/studies.log"
    options = {"image": "bhsearch:1", "cache_claim": "cache", "cache_path": str(tmp_path / "cache")}
    words = arguments(trials=N_TRIALS, workers=N_PODS, study=STUDY, launcher="kubernetes", dry_run=True)
    words += [word for pair in options.items() for word in ("--launcher-option", "=".join(pair))]
    pods = []
    with mlflow_server(tmp_path / "server") as server:
        done = run(tmp_path, *words, BHSEARCH_STORAGE=storage, MLFLOW_TRACKING_URI="http://mlflow:5000")
        assert done.returncode == 0, done.stderr
        (manifest,) = tmp_path.glob("jobs/*/job.yaml")
        documents = list(yaml.safe_load_all(manifest.read_text()))
        lines = manifest.with_name("secret.env").read_text().splitlines()
        secret = dict(line.split("=", 1) for line in lines)
        assert secret["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
        secret["MLFLOW_TRACKING_URI"] = server.uri  # in the place of a Service of this name
        (tmp_path / "cache").mkdir()

        def start(index):
            pods.append(Pod(tmp_path, documents, secret, index))
            return pods[-1]

        def running_on(host):
            owners = [trial.system_attrs.get("bhsearch:owner", {}) for trial in trials_in(storage)]
            return any(owner.get("host") == host for owner in owners)

        try:
            now = [start(index) for index in range(N_PODS)]
            for pod in now:
                wait_for(lambda pod=pod: running_on(pod.host))
            now[1].send(signal.SIGKILL)
            now[1].end()
            now[2].send(signal.SIGTERM)
            code, log = now[2].end()
            assert code == 143, log  # success would end the index, and nobody would replace the pod
            now[1:] = [start(1), start(2)]
            ends = [pod.end() for pod in now]
        finally:
            for pod in pods:
                pod.discard()
        assert [code for code, _ in ends] == [0, 0, 0], "\n".join(log for _, log in ends)
        store = Store(tmp_path / "server", server.uri)
        assert_whole(tmp_path / "cache", N_TRIALS, storage, store)
        hosts = {trial.system_attrs["bhsearch:owner"]["host"] for trial in trials_in(storage)}
        assert hosts == {pod.host for pod in now}
        assert "no interval" not in ends[0][1]
        assert "Proposed" in ends[0][1]
        assert "Proposed" not in ends[1][1]
        assert {file.name for file in (tmp_path / "cache").iterdir()} >= {"cache", "studies.log"}
