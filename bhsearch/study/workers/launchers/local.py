"""The launcher `local`, which starts workers as child processes on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import suppress
from multiprocessing.connection import Connection

from bhsearch.runtime import processes
from bhsearch.study.workers.launchers.base import WorkerCommand, WorkerHandle, inherited_channel


class LocalWorker:
    """A worker that runs as a child process; see `WorkerHandle`."""

    def __init__(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
        self.process, self._connection = process, connection

    @property
    def connection(self) -> Connection:
        """The pool's end of the channel."""
        return self._connection

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the process has ended, for at most `seconds`."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def close(self) -> None:
        """Close the pool's end of the channel."""
        self._connection.close()

    def how_it_ended(self) -> str:
        """Return the exit code or the signal of the process, for messages; `unknown` if the process is running."""
        code = self.process.poll()
        return "unknown" if code is None else processes.how_it_ended(code)


class LocalLauncher:
    """A launcher that starts workers as child processes of the command."""

    def start(self, command: WorkerCommand) -> WorkerHandle:
        """Start a child process that inherits one end of a socket pair, and return its handle."""
        here, there = socket.socketpair()
        with here, there:
            process = subprocess.Popen(
                command.words(inherited_channel(there)),
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **command.variables},
            )
            return LocalWorker(process, Connection(here.detach()))


LAUNCHER = LocalLauncher()
