"""The launcher `ray` on a real cluster of two nodes: it places workers, and checks and follows them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bhsearch.errors import MissingError, SettingsError
from bhsearch.study.workers.launchers.ray.launcher import LAUNCHER
from bhsearch.study.workers.launchers.ray.options import RayOptions
from tests.faults.whole import assert_gone, trials_in
from tests.studies import arguments, environment, run, wait_for
from tests.study.workers.launchers.ray_cluster import RayCluster, ray_cluster


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster() as running:
        yield running


def begin(folder: Path, cluster: RayCluster, storage: str, *more: str, **variables: str) -> subprocess.Popen[str]:
    words = [*arguments(trials=400, workers=2), "--no-tracking", "--storage", storage, *cluster.options(), *more]
    return subprocess.Popen(
        [sys.executable, "-m", "bhsearch.run", *words],
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def workers_in(folder: Path) -> list[psutil.Process]:
    """The processes of bhsearch in a folder that actors have started, and their children."""
    found = []
    for process in psutil.process_iter():
        try:
            if "bhsearch" in " ".join(process.cmdline()) and Path(process.cwd()) == folder:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def test_options_have_defaults():
    assert RayOptions.of({}) == RayOptions(1.0, None, None)
    given = RayOptions.of({"num_cpus": "0.5", "num_gpus": "0.25", "address": "head:6379"})
    assert given == RayOptions(0.5, 0.25, "head:6379")
    assert RayOptions.of({"num_cpus": "2", "num_gpus": "1", "address": "[::1]:6379"}).address == "[::1]:6379"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("num_gpus", "1.5", "must be at most 1, but got 1.5"),
        ("num_gpus", "2", "must be at most 1, but got 2"),
        ("num_gpus", "-1", "must be a number from 0"),
        ("num_gpus", "nan", "must be a number from 0"),
        ("num_cpus", "one", "must be a number from 0, such as 0.5, but got 'one'"),
        ("num_cpus", "1.5", "must be a whole number or below 1"),
        ("address", "ray://head:10001", "must be HOST:PORT"),
        ("address", "head", "must be HOST:PORT"),
        ("partition", "gpu", "has the options address, num_cpus, num_gpus, but got --launcher-option partition"),
    ],
)
def test_wrong_options_are_refused(name, value, said):
    with pytest.raises(SettingsError, match=said.replace("(", r"\(")):
        RayOptions.of({name: value})


def test_ray_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingError, match=r"pip install 'bhsearch\[ray\]'") as caught:
        LAUNCHER.check({}, dry_run=False)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["num_gpus=1.5"], "num_gpus must be at most 1"),
        (["address=127.0.0.1:1"], "No Ray cluster can be reached at 127.0.0.1:1"),
    ],
)
def test_wrong_use_ends_before_a_study_exists(tmp_path, options, said):
    words = [
        *arguments(workers=2),
        "--no-tracking",
        "--storage",
        f"journal:{tmp_path}/studies.log",
        "--launcher",
        "ray",
    ]
    done = run(tmp_path, *words, *(word for option in options for word in ("--launcher-option", option)))
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "studies.log").exists()


def test_a_dry_run_shows_the_command_and_no_secret(tmp_path):
    words = [*arguments(workers=2), "--no-tracking", "--launcher", "ray", "--dry-run"]
    storage = "postgresql+psycopg://ann:s3cr3t@db.example.org/studies"
    done = run(tmp_path, *words, BHSEARCH_STORAGE=storage)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "2 actors, each with num_cpus=1" in said
    assert "--only trials --no-tracking --workers 1" in said
    assert "BHSEARCH_STORAGE" in said
    assert "s3cr3t" not in done.stdout + done.stderr


def test_a_dry_run_of_one_worker_speaks_of_one_actor(tmp_path):
    words = [*arguments(workers=1), "--no-tracking", "--storage", f"journal:{tmp_path}/studies.log"]
    words += ["--launcher", "ray", "--launcher-option", "num_cpus=2", "--dry-run"]
    done = run(tmp_path, *words, OMP_NUM_THREADS="7", HF_TOKEN="t0ken")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "1 actor, with num_cpus=2 and 1 GPU if the cluster has one, that runs bhsearch worker" in said
    assert "HF_TOKEN" in said
    assert "OMP_NUM_THREADS" not in said, "num_cpus sets it"
    assert "t0ken" not in done.stdout + done.stderr


@pytest.mark.slow
def test_the_threads_of_a_worker_are_those_of_its_cpus_not_of_the_shell(tmp_path, cluster):
    storage = f"journal:{tmp_path}/studies.log"
    with begin(tmp_path, cluster, storage, OMP_NUM_THREADS="7", HF_HOME="/shared/hub") as command:
        wait_for(lambda: len(trials_in(storage)) > 1 and len(workers_in(tmp_path)) >= 4, command)
        variables = [each.environ() for each in workers_in(tmp_path) if each.pid != command.pid]
        command.send_signal(signal.SIGINT)
        output = command.communicate(timeout=120)[0]
    assert command.returncode == 130, output
    assert {(each["OMP_NUM_THREADS"], each["HF_HOME"]) for each in variables} == {("1", "/shared/hub")}


@pytest.mark.slow
def test_a_study_survives_a_lost_node(tmp_path, cluster):
    storage = f"journal:{tmp_path}/studies.log"
    with begin(tmp_path, cluster, storage, "--trials", "80") as command:
        wait_for(lambda: len(trials_in(storage)) > 10 and len(workers_in(tmp_path)) >= 5, command)
        lost = cluster.lose(lambda: trials_in(storage))
        cluster.add()
        output = command.communicate(timeout=200)[0]
    assert command.returncode == 0, output
    trials = trials_in(storage)
    assert trials[lost].state.name == "FAIL"
    retries = [trial.user_attrs.get("retry_of") for trial in trials].count(lost)
    assert retries <= 1, "0 if the other worker had finished the study before the loss was noticed"
    assert "RUNNING" not in {trial.state.name for trial in trials}
    assert sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials) == 80
    assert "its node or its process was lost" in " ".join(output.split())
    assert "(raylet)" not in output
    assert_gone(workers_in(tmp_path), 10)
    assert {file.name for file in (tmp_path / "jobs").rglob("*.log")} == {"worker-0.log", "worker-1.log"}


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_and_their_trials(tmp_path, cluster):
    storage = f"journal:{tmp_path}/studies.log"
    with begin(tmp_path, cluster, storage) as command:
        wait_for(lambda: len(trials_in(storage)) > 5, command)
        left = workers_in(tmp_path)
        command.send_signal(signal.SIGINT)
        output = command.communicate(timeout=120)[0]
    assert command.returncode == 130, output
    assert "The workers on Ray have ended." in output
    assert_gone(left, 5)
    assert "RUNNING" not in {trial.state.name for trial in trials_in(storage)}


@pytest.mark.slow
def test_when_the_time_is_up_running_trials_end_and_waiting_workers_go(tmp_path, cluster):
    storage = f"journal:{tmp_path}/studies.log"
    words = ["--trials", "4000", "--timeout", "5", "--workers", "3"]  # far more trials than fit into the time
    with begin(tmp_path, cluster, storage, *words) as command:
        output = command.communicate(timeout=200)[0]
    assert command.returncode == 130, output
    assert "Time is up after 5 s." in output
    assert {trial.state.name for trial in trials_in(storage)} == {"COMPLETE"}
    assert_gone(workers_in(tmp_path), 10)
    assert {file.name for file in (tmp_path / "jobs").rglob("*.log")} == {"worker-0.log", "worker-1.log"}


@pytest.mark.slow
def test_workers_go_on_without_the_command_and_are_followed_by_the_next_one(tmp_path, cluster):
    storage = f"journal:{tmp_path}/studies.log"
    with begin(tmp_path, cluster, storage, "--no-wait") as command:
        output = command.communicate(timeout=120)[0]
    assert command.returncode == 0, output
    wait_for(lambda: len(trials_in(storage)) > 5)
    workers = {process.pid for process in workers_in(tmp_path)}
    with begin(tmp_path, cluster, storage) as command:
        assert command.stdout is not None
        assert any("Follows 2 workers of an earlier command." in line for line in command.stdout)
        assert workers <= {process.pid for process in workers_in(tmp_path)}
        command.send_signal(signal.SIGTERM)
        output = command.communicate(timeout=120)[0]
    assert command.returncode == 143, output
    assert_gone([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], 5)


@pytest.mark.slow
def test_a_worker_that_refuses_its_input_ends_the_command(tmp_path, monkeypatch):
    """Here the node, not the command, has an unusable cache; the message is that of the worker."""
    monkeypatch.setenv("BHSEARCH_CACHE", "/proc/none")
    with ray_cluster(1) as broken:
        monkeypatch.delenv("BHSEARCH_CACHE")
        storage = f"journal:{tmp_path}/studies.log"
        with begin(tmp_path, broken, storage, XDG_CACHE_HOME=str(tmp_path / "cache")) as command:
            output = command.communicate(timeout=120)[0]
    assert command.returncode == 2, output
    said = " ".join(output.split())
    assert "/proc/none" in said.partition("error: ")[2]
    assert f"Its log: {tmp_path}/jobs/" in said
