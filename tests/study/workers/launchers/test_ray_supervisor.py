"""The process that runs one worker on a node: it repeats what the worker says, starts it again, and ends it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from bhsearch.study.workers.launchers.ray.supervisor import Supervisor
from tests.faults.whole import assert_gone, trials_in
from tests.studies import STUDY, arguments, environment, run, wait_for


@pytest.fixture
def study(tmp_path) -> str:
    """A study in a journal whose features are computed, and that has no trials."""
    storage = f"journal:{tmp_path}/studies.log"
    words = [*arguments(trials=300), "--no-tracking", "--only", "features", "--storage", storage]
    done = run(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    return storage


def supervisor(folder: Path, storage: str, *more: str) -> Supervisor:
    words = ["worker", "--study", STUDY, "--only", "trials", "--workers", "1", "--no-tracking", *more]
    return Supervisor(words, {"BHSEARCH_STORAGE": storage}, str(folder), folder / "jobs" / "worker-0.log")


def in_thread(worker: Supervisor) -> tuple[threading.Thread, list[int]]:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(worker.run()), daemon=True)
    thread.start()
    return thread, codes


def commands() -> list[psutil.Process]:
    """The workers' commands that this process has started."""
    return [child for child in psutil.Process().children() if "worker" in child.cmdline()]


def test_a_worker_that_refuses_its_input_is_not_started_again(tmp_path):
    worker = supervisor(tmp_path, f"journal:{tmp_path}/none.log")
    assert worker.run() == 2
    (line,) = worker.new_lines()
    assert line.startswith("error: ")
    assert STUDY in line
    assert (tmp_path / "jobs" / "worker-0.log").read_text().splitlines()[-1] == line


def test_a_folder_that_is_missing_is_an_error_of_the_input(tmp_path):
    words = ["worker", "--study", STUDY]
    worker = Supervisor(words, {}, str(tmp_path / "missing"), tmp_path / "worker-0.log")
    assert worker.run() == 2
    assert "missing" in worker.new_lines()[0]


@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_a_stopped_one_is_not(tmp_path, study):
    worker = supervisor(tmp_path, study)
    thread, codes = in_thread(worker)
    wait_for(lambda: trials_in(study))
    commands()[0].kill()
    n_before = len(trials_in(study))
    wait_for(lambda: len(trials_in(study)) > n_before + 2)
    assert [line for line in worker.new_lines() if "signal SIGKILL" in line]
    left = [process for command in commands() for process in (command, *command.children(recursive=True))]
    worker.stop(60)
    thread.join(60)
    assert codes == [143]
    assert_gone(left, 5)
    states = [trial.state.name for trial in trials_in(study)]
    assert "RUNNING" not in states[n_before + 1 :]
    assert len(states) < 300


@pytest.mark.slow
def test_a_worker_ends_after_the_process_that_started_it(tmp_path, study):
    """Else a lost Ray node would leave a worker that nobody knows of."""
    program = (
        "import sys; from pathlib import Path\n"
        "from bhsearch.study.workers.launchers.ray.supervisor import Supervisor\n"
        f"words = ['worker', '--study', {STUDY!r}, '--only', 'trials', '--workers', '1', '--no-tracking']\n"
        f"Supervisor(words, {{'BHSEARCH_STORAGE': {study!r}}}, {str(tmp_path)!r}, Path('log')).run()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment())
    wait_for(lambda: trials_in(study), parent)
    left = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    assert_gone(left, 30)
    assert "RUNNING" not in {trial.state.name for trial in trials_in(study)}


def test_a_worker_that_fails_three_times_in_a_row_is_given_up(tmp_path):
    worker = Supervisor(["worker"], {"PYTHONHOME": "/none"}, str(tmp_path), tmp_path / "worker-0.log")
    assert worker.run() == 1  # Python cannot start
    again = f"ended with exit code 1 and is started again; its log: {tmp_path}/worker-0.log"
    assert worker.new_lines() == [again, again]
