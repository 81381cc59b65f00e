"""A launcher: child processes that dial the pool's address, as workers on another host would."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from multiprocessing.connection import Connection

from bhsearch.study.workers.launchers.base import ListeningChannel, WorkerCommand


class DialledWorker:
    """A child process and the channel that it dials."""

    def __init__(self, process: subprocess.Popen[bytes], channel: ListeningChannel) -> None:
        self._process, self._channel = process, channel

    @property
    def connection(self) -> Connection:
        return self._channel.connection

    def kill(self) -> None:
        self._process.kill()

    def wait(self, seconds: float | None = None) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def how_it_ended(self) -> str:
        return f"exit code {self._process.poll()}"


class DialLauncher:
    """Starts workers that connect over TCP."""

    def start(self, command: WorkerCommand) -> DialledWorker:
        channel = ListeningChannel(seconds=120)
        process = subprocess.Popen(
            command.words(channel.channel),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **command.variables, **channel.variables},
        )
        return DialledWorker(process, channel)


LAUNCHER = DialLauncher()
