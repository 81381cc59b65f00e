"""Leases beside a journal: a trial of another machine counts as dead when its process has not renewed its lease."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from bhsearch.engines.optuna.storages import heartbeats
from bhsearch.engines.optuna.storages.attributes import keep_notes
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.engines.optuna.storages.heartbeats import BEAT_SECONDS, GRACE_SECONDS, heartbeats_of
from bhsearch.runtime.processes import process_name, this_process

ELSEWHERE = {"host": "an other/host", "pid": 7, "started": 1234.5678}


@pytest.fixture
def study(tmp_path):
    return optuna.create_study(storage=connect(f"journal:{tmp_path}/studies.log"), study_name="one")


def begin(study, owner):
    trial = study.ask()
    keep_notes(study._storage, trial._trial_id, {"owner": owner})
    return trial.number


def lease_of(tmp_path, owner, seconds_old):
    file = tmp_path / "studies.log.leases" / process_name(owner)
    file.parent.mkdir(exist_ok=True)
    file.touch()
    then = time.time() - seconds_old
    os.utime(file, (then, then))
    return file


def test_a_trial_of_another_machine_is_stale_once_its_lease_is_old(study, tmp_path):
    beats = heartbeats_of(study)
    assert beats.seconds == BEAT_SECONDS
    here, there = begin(study, this_process()), begin(study, ELSEWHERE)
    beats.beat(here)
    lease_of(tmp_path, ELSEWHERE, GRACE_SECONDS - 10)
    assert beats.stale() == set()
    lease_of(tmp_path, ELSEWHERE, GRACE_SECONDS + 10)
    lease_of(tmp_path, this_process(), GRACE_SECONDS + 10)  # of this machine, the processes themselves are looked at
    assert beats.stale() == {there}
    study.tell(there, state=optuna.trial.TrialState.FAIL)
    assert beats.stale() == set()


def test_a_trial_without_a_lease_is_given_the_time_to_make_one(study, tmp_path, monkeypatch):
    beats, there = heartbeats_of(study), begin(study, ELSEWHERE)
    assert beats.stale() == set()
    now = time.monotonic()
    monkeypatch.setattr(heartbeats.time, "monotonic", lambda: now + GRACE_SECONDS + 1)
    assert beats.stale() == {there}
    lease_of(tmp_path, ELSEWHERE, 0)
    assert beats.stale() == set()


def test_leases_that_nobody_needs_are_removed(study, tmp_path):
    beats, there = heartbeats_of(study), begin(study, ELSEWHERE)
    old = lease_of(tmp_path, {**ELSEWHERE, "pid": 8}, 2 * 86400)
    assert beats.stale() == set()
    assert not old.exists()
    code = (
        "import sys, optuna; from bhsearch.engines.optuna.storages.connection import connect;"
        "from bhsearch.engines.optuna.storages.heartbeats import heartbeats_of;"
        "study = optuna.load_study(storage=connect(sys.argv[1]), study_name='one'); heartbeats_of(study).beat(0)"
    )
    url = f"journal:{tmp_path}/studies.log"
    subprocess.run([sys.executable, "-c", code, url], check=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)})
    assert not (tmp_path / "studies.log.leases").exists()
    assert there == 0


@pytest.mark.parametrize("call", ["begin", "stale"])
def test_the_folder_of_leases_may_be_removed_at_any_time(study, tmp_path, monkeypatch, call):
    """A process removes it at its end if it is empty."""
    beats, original, removed = heartbeats_of(study), Path.touch, []
    begin(study, ELSEWHERE)

    def touch(file, *args, **options):
        if not removed:
            removed.append(file)
            file.parent.rmdir()
        original(file, *args, **options)

    monkeypatch.setattr(Path, "touch", touch)
    assert beats.begin(0) is None if call == "begin" else beats.stale() == set()
    assert removed
    assert (tmp_path / "studies.log.leases").is_dir()


def test_a_heartbeat_that_cannot_be_recorded_is_left_out(study, tmp_path):
    beats = heartbeats_of(study)
    (tmp_path / "studies.log.leases").touch()
    beats.beat(0)
    with pytest.raises(OSError, match="leases"):
        beats.begin(0)


def test_a_database_on_this_machine_needs_none(tmp_path):
    study = optuna.create_study(storage=connect(f"sqlite:///{tmp_path}/optuna.db"), study_name="one")
    beats = heartbeats_of(study)
    beats.beat(begin(study, ELSEWHERE))
    assert beats.seconds is None
    assert beats.stale() == set()
