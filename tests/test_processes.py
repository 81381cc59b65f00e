"""Which process it is, whether it still lives, and how it ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bhsearch.processes import how_it_ended, is_alive, is_here, memory_mb, this_process


def test_this_process_is_alive():
    assert this_process()["pid"] == os.getpid()
    assert is_alive(this_process())
    assert is_here(this_process())


def test_a_process_that_ended_is_not():
    code = "import json; from bhsearch.processes import this_process; print(json.dumps(this_process()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not is_alive(json.loads(done.stdout))


def test_a_process_that_ended_and_was_not_asked_for_its_exit_code_is_not():
    code = "import json; from bhsearch.processes import this_process; print(json.dumps(this_process()), flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        named = json.loads(process.stdout.readline())
        process.stdout.read()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(named)


def test_another_process_with_the_same_number_is_not():
    """Numbers are used again; a trial of a dead process must not wait for a stranger."""
    assert not is_alive(this_process() | {"started": this_process()["started"] - 3600})


def test_a_process_on_another_host_is_taken_to_be_alive():
    """Nobody here can know; ending its trial would be worse than waiting."""
    other = this_process() | {"host": "another", "pid": 1}
    assert is_alive(other)
    assert not is_here(other)


def test_a_trial_without_an_owner_belongs_to_nobody():
    assert not is_alive({})


@pytest.mark.parametrize(("code", "words"), [(3, "exit code 3"), (-9, "signal SIGKILL"), (-200, "signal 200")])
def test_an_exit_code_in_words(code, words):
    assert how_it_ended(code) == words


def test_memory_is_in_megabytes():
    assert 10 < memory_mb() < 100_000
