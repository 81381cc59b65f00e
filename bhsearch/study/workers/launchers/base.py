"""The interface of launchers, and the channel between a worker and its pool.

A launcher runs the command line of one worker, on this machine or another one. The worker connects to the pool through
a channel, which is an argument of the command line: the descriptor of an inherited socket (`fd:7`), or a TCP address
that the worker connects to (`tcp:HOST:PORT`). Worker and pool must have access to the same data, weights, cache, outbox
and storage, for example on a shared file system.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from typing import Protocol

from bhsearch.errors import RunError
from bhsearch.plugins import Registry
from bhsearch.runtime.processes import python_command
from bhsearch.study.workers.launchers.jobs import ClusterLauncher

MODULE = "bhsearch.study.workers.process"
KEY_VARIABLE = "BHSEARCH_WORKER_KEY"  # environment variable with the secret key of a `tcp:` channel, in hexadecimal
_FD, _TCP = "fd", "tcp"
_STEP_SECONDS = 0.5  # interval of checks whether a worker has ended before it connected


@dataclass(frozen=True)
class WorkerCommand:
    """The command that a launcher runs to start a worker.

    Attributes:
        slot: Index of the worker in its pool, from 0; a replacement gets the slot of the worker that it replaces.
        threads: Number of CPU threads that one operation may use; 0 for the framework's default.
        framework: Whether the worker imports the framework at once, or when it needs it.
        variables: Environment variables to add, such as `CUDA_VISIBLE_DEVICES`.
    """

    slot: int
    threads: int
    framework: bool
    variables: Mapping[str, str] = field(default_factory=dict)

    def words(self, channel: str) -> list[str]:
        """Return the arguments of the command line for a worker on a channel; a shell needs `shlex.join` of them."""
        return python_command(MODULE, channel, str(self.threads), str(int(self.framework)))


class WorkerHandle(Protocol):
    """A running or ended worker, as returned by `Launcher.start`."""

    @property
    def connection(self) -> Connection:
        """The pool's end of the channel; reading it raises `EOFError` after the worker has ended."""

    def kill(self) -> None:
        """Kill the worker without waiting for its end; does nothing if the worker has ended."""

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the worker has ended, for at most `seconds`; None for no limit."""

    def close(self) -> None:
        """Close the pool's end of the channel after the worker has ended; does nothing if already closed."""

    def how_it_ended(self) -> str:
        """Return the cause of the worker's end for messages, such as `exit code 1`; `unknown` if not available."""


class Launcher(Protocol):
    """A factory of workers. Other packages register a launcher as an entry point in the group `bhsearch.launchers`."""

    def start(self, command: WorkerCommand) -> WorkerHandle:
        """Start a worker, and return its handle as soon as its channel exists, possibly before the worker connects.

        Raises:
            RunError: If the worker cannot be started.
        """


class ListeningChannel:
    """The pool's end of a `tcp:` channel, for launchers whose workers cannot inherit a socket.

    Args:
        host: Address of this machine that the worker can reach.
        seconds: Time limit for the worker to connect, such as the longest queueing time of a batch system.
        ended: Function that returns whether the worker has ended; if so, `connection` stops waiting.

    Attributes:
        channel: Name of the channel, for `WorkerCommand.words`.
        variables: Environment variables that the worker needs to connect.
    """

    def __init__(
        self, host: str = "127.0.0.1", seconds: float = 600.0, ended: Callable[[], bool] = lambda: False
    ) -> None:
        self._key, self._seconds, self._ended = secrets.token_bytes(32), seconds, ended
        self._server = socket.create_server((host, 0))
        self._server.settimeout(min(seconds, _STEP_SECONDS))
        self._connection: Connection | None = None
        self.channel = f"{_TCP}:{host}:{self._server.getsockname()[1]}"
        self.variables = {KEY_VARIABLE: self._key.hex()}

    @property
    def connection(self) -> Connection:
        """The connection to the worker; the first access waits until the worker connects.

        If the worker has ended before it connected, the connection is closed at the other end, so that reading it
        raises `EOFError`.

        Raises:
            RunError: If the worker does not connect in time.
        """
        if self._connection is None:
            with self._server:
                self._connection = self._accepted()
        return self._connection

    def close(self) -> None:
        """Close the channel, without waiting for a worker that has not connected yet."""
        self._server.close()
        if self._connection is not None:
            self._connection.close()

    def _accepted(self) -> Connection:
        deadline = time.monotonic() + self._seconds
        while not self._ended():
            try:
                accepted, _ = self._server.accept()
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise RunError(
                        f"The worker did not connect to {self.channel} within {self._seconds:g} s."
                    ) from None
            else:
                accepted.setblocking(True)
                opened = Connection(accepted.detach())
                deliver_challenge(opened, self._key)
                answer_challenge(opened, self._key)
                return opened
        here, there = socket.socketpair()
        there.close()
        return Connection(here.detach())


def inherited_channel(end: socket.socket) -> str:
    """Return the name of a channel whose socket the worker inherits."""
    return f"{_FD}:{end.fileno()}"


def open_channel(channel: str) -> Connection:
    """Open the worker's end of a channel, and return the connection.

    Raises:
        ValueError: If the kind of the channel is unknown.
        OSError: If the pool cannot be reached.
    """
    kind, _, place = channel.partition(":")
    if kind == _FD:
        return Connection(int(place))
    if kind == _TCP:
        host, _, port = place.rpartition(":")
        opened = Client((host, int(port)), authkey=bytes.fromhex(os.environ.pop(KEY_VARIABLE, "")))
        assert isinstance(opened, Connection)
        return opened
    raise ValueError(f"A channel must begin with {_FD}: or {_TCP}:, but got {channel!r}.")


LAUNCHERS: Registry[Launcher | ClusterLauncher] = Registry("bhsearch.launchers", "--launcher")
