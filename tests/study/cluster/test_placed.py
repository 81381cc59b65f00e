"""A cluster's launcher of another package, whose workers are real commands in another folder, on a journal."""

from __future__ import annotations

import json
import platform
import re
import signal
import subprocess
import sys

import psutil
import pytest

import bhsearch.run
import bhsearch.worker
from bhsearch.tracking import keys
from bhsearch.tracking.upload.outbox import Outbox
from tests.faults.whole import trials_in
from tests.studies import STUDY, Store, arguments, command_here, environment, run, wait_for
from tests.study.cluster.elsewhere import ROOT, install

_SECONDS = 240


class Place:
    """A folder of a command, another one of its workers, and their journal."""

    def __init__(self, folder):
        self.folder, self.away = folder / "command", folder / "away"
        self.folder.mkdir()
        self.away.mkdir()
        self.journal = folder / "studies.log"
        self.storage = f"journal:{self.journal}"
        self._variables = {"PYTHONPATH": install(folder / "package"), "BHSEARCH_STORAGE": self.storage}

    def start(self, *words, launcher="elsewhere", **changes):
        options = {"study": STUDY, "tracking": False, "workers": 2, "launcher": launcher, **changes}
        options = {key: value for key, value in options.items() if value is not None}
        words = [*arguments(**options), *words]
        if launcher == "elsewhere":
            words += ["--launcher-option", f"folder={self.away}"]
        return self.command("run", *words)

    def command(self, name, *words):
        return subprocess.Popen(
            [sys.executable, "-m", f"bhsearch.{name}", *words],
            cwd=self.folder,
            env=environment(**self._variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def trials(self):
        return trials_in(self.storage)

    def finished(self):
        return [trial for trial in self.trials() if trial.state.name == "COMPLETE"]

    def workers(self):
        """Processes that work in the other folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.away) and "worker" in process.cmdline():
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    for process in made.workers():
        process.kill()


def ended(process):
    """Exit code, and what was printed on one line each."""
    out, err = process.communicate(timeout=_SECONDS)
    return process.returncode, out, " ".join(err.split())


def test_workers_elsewhere_run_the_trials_and_the_command_ranks_them(place):
    process = place.start(trials=6)
    code, out, err = ended(process)
    assert code == 0, out + err
    assert len(place.finished()) == 6
    assert process.pid not in {trial.system_attrs["bhsearch:owner"]["pid"] for trial in place.finished()}
    assert sorted(map(int, re.findall(r"^trial +(\d+)  [01]\.", out, re.MULTILINE))) == [0, 1, 2, 3, 4, 5]
    assert "Proposed" in out
    assert not (place.away / "optuna.db").exists()
    assert sorted(file.name for file in (place.folder / "jobs" / STUDY).iterdir()) == ["worker-0.log", "worker-1.log"]
    assert place.workers() == []


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_trial_is_run_again(place):
    process = place.start(trials=40)
    wait_for(lambda: len(place.finished()) > 2, process)
    for worker in place.workers():  # both, so that none runs when the command looks
        worker.kill()
    code, out, err = ended(process)
    assert code == 0, out + err
    assert "is started again" in out
    trials = place.trials()
    assert len(place.finished()) == 40
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "FAIL"}
    dead = [trial.number for trial in trials if trial.system_attrs.get("bhsearch:dead") and trial.params]
    retried = [trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs]
    assert sorted(dead) == sorted(retried)


@pytest.mark.slow
def test_workers_that_fail_again_and_again_end_the_command(place):
    process = place.start(trials=400)

    def has_failed():
        for worker in place.workers():
            if worker.is_running():
                worker.kill()
        return process.poll() is not None

    wait_for(has_failed)
    code, out, err = ended(process)
    assert code == 1
    assert "4 workers failed. Read " in err
    assert "The workers have ended." in out
    assert place.workers() == []


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_and_the_same_command_goes_on(place):
    process = place.start(trials=400)
    wait_for(lambda: len(place.finished()) > 1, process)
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert code == 130, out + err
    assert "The workers have ended." in out
    assert place.workers() == []
    n_before = len(place.finished())
    assert {trial.state.name for trial in place.trials()} <= {"COMPLETE", "FAIL"}
    code, out, err = ended(place.start(trials=n_before + 2))
    assert code == 0, out + err
    assert len(place.finished()) == n_before + 2


@pytest.mark.slow
def test_the_time_limit_ends_workers_and_command(place):
    code, out, err = ended(place.start(trials=4000, timeout=20))
    assert code == 130, out + err
    assert "Time is up after 20 s." in out
    assert "Proposed" in out
    assert place.workers() == []
    assert 0 < len(place.finished()) < 4000
    assert {trial.state.name for trial in place.trials()} == {"COMPLETE"}  # running trials were not interrupted


@pytest.mark.slow
def test_a_command_that_does_not_wait_leaves_its_workers(place):
    code, out, err = ended(place.start("--no-wait", trials=5))
    assert code == 0, out + err
    assert "Proposed" not in out
    wait_for(lambda: not place.workers())
    assert len(place.finished()) == 5
    words = ["--study", STUDY, "--only", "summary", "--workers", "0", "--no-tracking"]
    code, out, err = ended(place.command("worker", *words))
    assert code == 0, out + err
    assert "Proposed" in out
    assert len(place.trials()) == 5


def test_a_dry_run_writes_scripts_and_leaves_the_storage_alone(place):
    code, out, err = ended(place.start("--dry-run", trials=5))
    assert code == 0, out + err
    script = place.folder / "jobs" / STUDY / "worker.sh"
    assert f"sh {script}" in out
    assert f"worker --study {STUDY} --only trials" in script.read_text()
    assert not place.journal.exists()


def test_what_a_worker_refuses_ends_the_command_and_leaves_no_study(place):
    (place.away / "keras.py").touch()  # which Python would import in the place of the package
    code, _, err = ended(place.start(trials=5))
    assert code == 2
    assert re.search(r"Worker \d was refused: .*keras\.py", err)
    assert place.workers() == []
    assert place.trials() == []


def test_parts_of_a_study_by_several_commands(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv("BHSEARCH_STORAGE", place.storage)

    def ended_here(module, *words):
        done = command_here(module, *words, "--workers", "0", "--no-tracking")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "Proposed" not in ended_here(bhsearch.run, *arguments(trials=3, only="trials", study=STUDY))
    assert len(place.finished()) == 3
    assert "Proposed" in ended_here(bhsearch.run, *arguments(trials=5, only="summary", study=STUDY))
    assert len(place.finished()) == 3  # although five are asked for
    ended_here(bhsearch.worker, "--study", STUDY, "--trials", "4", "--only", "trials")
    assert len(place.finished()) == 4


@pytest.mark.slow
def test_what_a_cluster_does_not_compute_can_be_added_after_the_search(place):
    """The command that `cluster.checks` names."""
    code, out, err = ended(place.start(trials=3, only="trials", launcher="local", workers=0))
    assert code == 0, out + err
    extras = ["--robustness", "--nested", "--race-divisions", "1"]
    code, out, err = ended(place.command("worker", "--study", STUDY, "--only", "summary", *extras, "--no-tracking"))
    assert code == 0, out + err
    text = " ".join(out.split())
    assert "Robustness under shifts" in text
    assert "nested AUC" in text
    assert "best trials were raced on further divisions" in text


def test_a_worker_that_only_runs_trials_and_is_ended_says_so(place):
    """Else a batch system would take it for done, and not start it again."""
    process = place.start(trials=400, only="trials", launcher="local", workers=0)
    wait_for(lambda: len(place.finished()) > 1, process)
    process.send_signal(signal.SIGTERM)
    code, out, err = ended(process)
    assert code == 143, out + err
    assert "Proposed" not in out


@pytest.mark.slow
def test_parts_of_a_tracked_study_leave_no_outbox(tmp_path):
    done = run(tmp_path, *arguments(trials=2, only="trials"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [child.info.status for child in Store(tmp_path).children().values()] == ["FINISHED", "FINISHED"]
    assert "finished_trials" not in Store(tmp_path).parent().data.metrics
    assert not (tmp_path / "outbox").exists()
    done = run(tmp_path, *arguments(trials=2, only="summary"))
    assert done.returncode == 0, done.stdout + done.stderr
    parent = Store(tmp_path).parent()
    assert (parent.info.status, parent.data.metrics["finished_trials"]) == ("FINISHED", 2)
    # One of a process that died after its last trial was logged.
    uid = parent.data.tags[keys.UID]
    left = Outbox(tmp_path / "outbox" / f"{uid}.gone-1-1.00")
    owner = {"host": platform.node(), "pid": 1, "started": 1.0}
    (left.folder / "owner.json").write_text(json.dumps(owner))
    left.put_study({}, {})
    done = run(tmp_path, *arguments(trials=2))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "outbox").exists()


def test_the_launcher_passes_the_contract_of_its_kind(tmp_path):
    words = [
        "-m",
        "pytest",
        "-n0",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "elsewhere",
        "tests/contracts/test_cluster_launchers.py",
    ]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment(PYTHONPATH=install(tmp_path / "package")),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert int(done.stdout.split(" passed")[0].split()[-1]) >= 10
