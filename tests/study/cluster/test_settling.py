"""Trials of dead workers are ended by the command that summarises a study, not by one that cannot log them."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import optuna
import pytest

from bhsearch.engines.optuna.storages.attributes import keep_notes
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.engines.optuna.storages.heartbeats import GRACE_SECONDS
from bhsearch.runtime.processes import this_process
from bhsearch.study.cluster import settling
from tests.studies import STUDY, search

DEAD = this_process() | {"pid": 2**22 + 1}
ELSEWHERE = {"host": "another", "pid": 7, "started": 1.0}


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = f"journal:{tmp_path}/studies.log"
    search(trials=1, storage=storage)
    return storage


def begin(storage, owner):
    study = optuna.load_study(study_name=STUDY, storage=connect(storage))
    keep_notes(study._storage, study.ask()._trial_id, {"owner": owner})


def states(storage):
    return [trial.state.name for trial in optuna.load_study(study_name=STUDY, storage=connect(storage)).trials]


def test_a_command_that_only_computes_features_leaves_dead_trials_to_those_that_log_them(storage):
    begin(storage, DEAD)
    search(trials=1, storage=storage, only="features")
    assert states(storage) == ["COMPLETE", "RUNNING"]
    search(trials=1, storage=storage, only="summary")
    assert states(storage) == ["COMPLETE", "FAIL"]


def test_the_summary_waits_until_a_worker_of_another_machine_counts_as_dead(storage, tmp_path, monkeypatch):
    begin(storage, ELSEWHERE)
    lease = tmp_path / "studies.log.leases" / "another-7-1.00"
    lease.parent.mkdir(exist_ok=True)
    lease.touch()

    def pass_the_time(seconds):
        then = time.time() - GRACE_SECONDS - seconds
        os.utime(lease, (then, then))

    monkeypatch.setattr(settling, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pass_the_time))
    search(trials=1, storage=storage, only="summary")
    assert states(storage) == ["COMPLETE", "FAIL"]


def test_the_summary_does_not_wait_for_a_worker_that_works(storage, monkeypatch):
    monkeypatch.setattr(settling, "_BEATS", 0.05)
    begin(storage, this_process())
    search(trials=1, storage=storage, only="summary")
    assert states(storage) == ["COMPLETE", "RUNNING"]
