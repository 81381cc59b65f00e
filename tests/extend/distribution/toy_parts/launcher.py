"""A launcher: child processes that dial the pool's address, as workers on another host would."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from multiprocessing.connection import Connection

from bhsearch.study.workers.launchers.base import ListeningChannel, WorkerCommand


class DialledWorker:
    """A child process and the channel that it dials."""

    def __init__(self, command: WorkerCommand) -> None:
        self._channel = ListeningChannel(seconds=120, ended=lambda: self._process.poll() is not None)
        self._process = subprocess.Popen(
            command.words(self._channel.channel),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **command.variables, **self._channel.variables},
        )

    @property
    def connection(self) -> Connection:
        return self._channel.connection

    def kill(self) -> None:
        self._process.kill()

    def wait(self, seconds: float | None = None) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def close(self) -> None:
        self._channel.close()

    def how_it_ended(self) -> str:
        return f"exit code {self._process.poll()}"


class DialLauncher:
    """Starts workers that connect over TCP."""

    def start(self, command: WorkerCommand) -> DialledWorker:
        return DialledWorker(command)


LAUNCHER = DialLauncher()
