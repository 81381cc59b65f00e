"""Whose trial it is, and whether that process still lives."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bhsearch import states
from bhsearch.search import engine
from bhsearch.search.engine import Trial


@pytest.mark.parametrize(
    ("state", "counts"),
    [(states.COMPLETE, True), (states.PRUNED, True), (states.FAILED, False), (states.RUNNING, False)],
)
def test_only_finished_trials_count(state, counts):
    assert Trial(0, state, {}).counts is counts


def test_this_process_is_alive():
    assert engine.owner()["pid"] == os.getpid()
    assert engine.is_alive(engine.owner())


def test_a_process_that_ended_is_not():
    code = "import json; from bhsearch.search import engine; print(json.dumps(engine.owner()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not engine.is_alive(json.loads(done.stdout))


def test_another_process_with_the_same_number_is_not():
    """Numbers are used again; a trial of a dead process must not wait for a stranger."""
    assert not engine.is_alive(engine.owner() | {"started": engine.owner()["started"] - 3600})


def test_a_process_on_another_host_is_taken_to_be_alive():
    """Nobody here can know; ending its trial would be worse than waiting."""
    assert engine.is_alive(engine.owner() | {"host": "another", "pid": 1})


def test_a_trial_without_an_owner_belongs_to_nobody():
    """Killed between the start of a trial and the note of who runs it."""
    assert not engine.is_alive({})
