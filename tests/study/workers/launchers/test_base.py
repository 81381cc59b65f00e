"""Channels between a worker and its pool."""

from __future__ import annotations

import threading

import pytest

from bhsearch.errors import RunError
from bhsearch.study.workers.launchers.base import ListeningChannel, WorkerCommand, open_channel


def test_a_worker_that_knows_the_key_connects_over_tcp(monkeypatch):
    listening, answers = ListeningChannel(seconds=30), []
    for name, value in listening.variables.items():
        monkeypatch.setenv(name, value)

    def worker():
        with open_channel(listening.channel) as channel:
            channel.send(("hello", 1))
            answers.append(channel.recv())

    thread = threading.Thread(target=worker)
    thread.start()
    with listening.connection as connection:
        assert connection.recv() == ("hello", 1)
        connection.send("task")
        thread.join()
    assert answers == ["task"]


def test_a_worker_that_never_connects_is_an_error():
    listening = ListeningChannel(seconds=0.1)
    with pytest.raises(RunError, match=r"did not connect to tcp:127\.0\.0\.1:[0-9]+ within 0\.1 s"):
        _ = listening.connection


def test_nobody_waits_for_a_worker_that_ended_before_it_connected():
    listening = ListeningChannel(ended=lambda: True)
    with pytest.raises(EOFError):
        listening.connection.recv()
    listening.close()


def test_a_channel_that_nobody_has_dialled_is_closed_at_once():
    ListeningChannel().close()


def test_a_channel_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="must begin with fd: or tcp:, but got 'pipe:3'"):
        open_channel("pipe:3")


def test_the_command_line_names_module_channel_and_threads():
    assert WorkerCommand(0, 2, True).words("fd:7")[-4:] == ["bhsearch.study.workers.process", "fd:7", "2", "1"]
