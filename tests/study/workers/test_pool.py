"""Workers are replaced when they die or hang, and end with their supervisor."""

from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager

import psutil
import pytest
from optuna.trial import TrialState

from bhsearch.errors import RunError, SettingsError
from bhsearch.study.events import ProgressReporter
from bhsearch.study.runner import optimize
from bhsearch.study.workers.gpus import visible_gpus
from bhsearch.study.workers.launchers.local import LocalLauncher
from bhsearch.study.workers.pool import n_workers
from tests.faults.whole import assert_whole, workers_of
from tests.studies import (
    arguments,
    cache_with_networks,
    optuna_trials,
    run,
    search,
    settings,
    started,
    trial_is_running,
    wait_for,
)

N_TRIALS = 8


@pytest.mark.faults
def test_workers_that_die_and_hang_are_replaced_and_their_trials_run_again(here):
    words = arguments(trials=N_TRIALS, workers=1, trial_timeout=20.0)
    with started(here, "-m", "bhsearch.run", *words) as process:
        wait_for(lambda: trial_is_running(here), process)
        (first,) = workers_of(process.pid)
        first.kill()
        wait_for(lambda: workers_of(process.pid) not in ([], [first]), process)
        wait_for(lambda: trial_is_running(here), process)
        (second,) = workers_of(process.pid)
        second.suspend()
        output = process.stdout.read()
        assert process.wait() == 0, output
    assert not psutil.pid_exists(second.pid)
    reasons = [t.user_attrs["reason"] for t in optuna_trials(here) if t.state == TrialState.FAIL]
    killed, hung = (any(words in reason for reason in reasons) for words in ("SIGKILL", "--trial-timeout, 20 s"))
    assert killed or hung  # each may have been between two trials
    assert_whole(here, N_TRIALS)


@pytest.mark.faults
def test_a_worker_that_outgrows_is_replaced_after_its_trial(here):
    with started(
        here, "-m", "bhsearch.run", *arguments(trials=2, workers=1, max_worker_memory=150, tracking=False)
    ) as process:
        output = process.stdout.read()
        assert process.wait() == 0, output
    assert len([t for t in optuna_trials(here) if t.state == TrialState.COMPLETE]) == 2
    assert "A worker outgrew --max-worker-memory, 150 MB" in output


@pytest.mark.faults
def test_workers_that_share_a_gpu_are_added_during_a_search(here):
    words = arguments(trials=16, workers_per_gpu="auto", tracking=False)
    at = words.index("--workers")
    done = run(here, *words[:at], *words[at + 2 :], CUDA_VISIBLE_DEVICES="0")  # which no worker here needs
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 workers now" in done.stdout
    trials = optuna_trials(here)
    assert len([t for t in trials if t.state == TrialState.COMPLETE]) == len(trials) == 16


class Recorder(ProgressReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps, self.open, self.begun, self.doings = [], [], [], []

    @contextmanager
    def step(self, what):
        self.steps.append(what)
        self.open.append(what)
        yield lambda done, total: None
        assert self.open.pop() == what

    def began(self, number):
        self.begun.append(number)

    def doing(self, what, number=None):
        self.doings.append((what, number))


@pytest.mark.parametrize("workers", [0, 1])
def test_every_step_of_a_study_is_named_wherever_its_trials_run(here, monkeypatch, workers):
    monkeypatch.setenv("BHSEARCH_CACHE", cache_with_networks(here / "cache"))
    shutil.rmtree(here / "cache" / "phantom")
    recorder = Recorder()
    optimize(settings(tracking=False, trials=2, workers=workers), recorder)
    assert recorder.steps == [
        "drawing the phantom",
        "reading images",
        "looking for backbones",
        "opening the study",
        "resizing images",
        "building backbones",
        "reading predictions",
        "comparing trials",
    ]
    assert recorder.open == []
    assert recorder.begun == [0, 1]
    assert {number for _, number in recorder.doings} <= ({0, 1} if workers else {None})
    # A worker leaves out what follows within a tenth of a second.
    assert recorder.doings if workers else any(what == "training heads" for what, _ in recorder.doings)


def test_a_worker_that_cannot_start_ends_the_command(here, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(
        RunError, match=r"2 workers in a row ended before they started a trial .the last one: exit code 1"
    ):
        search(workers=1)


def test_a_worker_that_dies_while_it_makes_ready_is_replaced(here, monkeypatch):
    begun, start = [], LocalLauncher.start

    def start_and_kill_the_first(*arguments):
        begun.append(start(*arguments))
        if len(begun) == 1:
            begun[0].kill()
        return begun[-1]

    monkeypatch.setattr(LocalLauncher, "start", start_and_kill_the_first)
    assert search(workers=1, trials=1).n_finished == 1
    assert len(begun) == 2


def test_what_the_user_did_wrong_is_said_as_if_there_were_no_worker(here):
    (here / "broken.keras").write_text("no network")
    with pytest.raises(Exception, match=r"broken\.keras") as alone:
        search(backbones=("broken.keras",))
    with pytest.raises(type(alone.value)) as through:
        search(backbones=("broken.keras",), workers=1)
    assert str(through.value) == str(alone.value)


@pytest.mark.parametrize(
    ("visible", "gpus"), [("0,1", ["0", "1"]), ("", []), ("-1", []), ("GPU-a, GPU-b", ["GPU-a", "GPU-b"])]
)
def test_gpus_are_those_that_may_be_seen_and_each_has_a_worker(monkeypatch, visible, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == gpus
    assert n_workers(settings(workers=None)) == max(1, len(gpus))
    assert n_workers(settings(workers=0)) == 0


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"trial_timeout": 0.0}, {"max_worker_memory": 10.0}])
def test_settings_of_workers_are_checked(wrong):
    with pytest.raises(SettingsError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        settings(**{"workers": 1, **wrong})


def test_a_process_cannot_end_itself():
    with pytest.raises(SettingsError, match="--workers 0"):
        settings(workers=0, trial_timeout=5.0)
