"""The contract of launchers, over every one that is installed; that of a cluster's launchers is a file of its own."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import psutil
import pytest

from bhsearch.study.workers.launchers.base import LAUNCHERS, WorkerCommand
from bhsearch.study.workers.launchers.jobs import ClusterLauncher

_ECHO = """
import os, sys
from bhsearch.runtime.processes import this_process
from bhsearch.study.workers.launchers.base import open_channel
channel = open_channel(sys.argv[1])
channel.send((this_process(), os.environ.get("WORD"), os.environ.get("BHSEARCH_WORKER_KEY")))
while True:
    word = channel.recv()
    if word == "exit":
        sys.exit(3)
    channel.send(word)
"""


@dataclass(frozen=True)
class Echo(WorkerCommand):
    """A program in the place of a worker: it says which process it is, then repeats what it receives."""

    def words(self, channel):
        return [sys.executable, "-c", _ECHO, channel]


OF_COMMANDS = [name for name in LAUNCHERS if not isinstance(LAUNCHERS.get(name), ClusterLauncher)]


@pytest.fixture(params=OF_COMMANDS)
def launched(request):
    handles = []

    def start(slot=0):
        handles.append(LAUNCHERS.get(request.param).start(Echo(slot, 1, False, {"WORD": f"word {slot}"})))
        return handles[-1]

    yield start
    for handle in handles:
        handle.kill()
        handle.wait()
        handle.close()


def heard(handle):
    assert handle.connection.poll(60), "the worker says nothing"
    return handle.connection.recv()


def test_messages_go_both_ways_and_variables_reach_the_worker(launched):
    first, second = launched(0), launched(1)
    (one, word, key), (other, another, _) = heard(first), heard(second)
    assert (word, another) == ("word 0", "word 1")
    assert key is None  # what the worker starts itself inherits no secret
    assert os.getpid() != one["pid"] != other["pid"]
    for handle, text in ((first, "a"), (second, "b" * 1_000_000)):
        handle.connection.send(text)
        assert heard(handle) == text


def test_a_worker_that_ends_closes_its_channel(launched):
    handle = launched()
    heard(handle)
    handle.connection.send("exit")
    assert handle.connection.poll(60)
    with pytest.raises((EOFError, OSError)):
        handle.connection.recv()
    handle.wait(60)
    assert handle.how_it_ended() in ("exit code 3", "unknown")


def test_a_worker_that_is_killed_before_it_reports_closes_its_channel(launched):
    handle = launched()
    handle.kill()
    handle.wait(60)
    messages = iter(handle.connection.recv, None)
    with pytest.raises((EOFError, OSError)):
        list(messages)


def test_a_worker_is_killed_even_if_it_is_suspended_and_twice_does_no_harm(launched):
    handle = launched()
    process = psutil.Process(heard(handle)[0]["pid"])
    process.suspend()
    for _ in range(2):
        handle.kill()
        handle.wait(60)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert handle.connection.poll(60)
    with pytest.raises((EOFError, OSError)):
        handle.connection.recv()
