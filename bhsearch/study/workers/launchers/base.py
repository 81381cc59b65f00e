"""The interface of launchers, and the channel between a worker and its pool.

A launcher runs one command line, somewhere. The worker connects to the pool through the channel that the command line
names: the descriptor of an inherited socket (`fd:7`), or an address that it dials (`tcp:HOST:PORT`). Both ends must see
the same data, weights, cache, outbox and storage, such as on a shared file system.
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

MODULE = "bhsearch.study.workers.process"
KEY_VARIABLE = "BHSEARCH_WORKER_KEY"  # the secret of a `tcp:` channel, in hexadecimal digits
_FD, _TCP = "fd", "tcp"
_STEP_SECONDS = 0.5  # between two questions whether a worker that has not connected has ended


@dataclass(frozen=True)
class WorkerCommand:
    """What a launcher is to run.

    Attributes:
        slot: Number of the worker among those of its pool, from 0. A worker that replaces another has its slot.
        threads: Processor threads that one operation may use; 0 for the framework's own choice.
        variables: Environment variables to add, such as `CUDA_VISIBLE_DEVICES`.
    """

    slot: int
    threads: int
    variables: Mapping[str, str] = field(default_factory=dict)

    def words(self, channel: str) -> list[str]:
        """Return the command line of a worker that reports through a channel; for a shell, use `shlex.join`."""
        return python_command(MODULE, channel, str(self.threads))


class WorkerHandle(Protocol):
    """A worker that a launcher has started."""

    @property
    def connection(self) -> Connection:
        """The pool's end of the channel; at its end of file the worker is gone."""

    def kill(self) -> None:
        """Begin to end the worker by force; does nothing if it has ended."""

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the worker has ended, at most `seconds`."""

    def close(self) -> None:
        """Close the pool's end of the channel, after the worker has ended; does nothing if it is closed."""

    def how_it_ended(self) -> str:
        """Return how the worker ended, for messages, such as `exit code 1`; `unknown` if that cannot be found out."""


class Launcher(Protocol):
    """Where workers run. Another package offers one by an entry point in `bhsearch.launchers`."""

    def start(self, command: WorkerCommand) -> WorkerHandle:
        """Start a worker. Returns once its channel exists; the worker may still be starting.

        Raises:
            RunError: If the worker cannot be started.
        """


class ListeningChannel:
    """A `tcp:` channel that waits for its worker, for launchers whose workers inherit no socket.

    Args:
        host: Address of this machine that the worker can reach.
        seconds: Time that `connection` waits for the worker, such as the longest time in a queue.
        ended: Function that returns whether the worker has ended, so that nobody waits for it.
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
        """The pool's end; waits for the worker when it is used for the first time.

        It is at its end of file if the worker has ended before it connected.

        Raises:
            RunError: If the worker does not connect in time.
        """
        if self._connection is None:
            with self._server:
                self._connection = self._accepted()
        return self._connection

    def close(self) -> None:
        """Close the channel; does not wait for a worker that has not connected."""
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
                        f"A worker must connect to {self.channel} within {self._seconds:g} s, but did not."
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
    """Open a worker's end of a channel.

    Raises:
        ValueError: If the channel is of no known kind.
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


LAUNCHERS: Registry[Launcher] = Registry("bhsearch.launchers", "--launcher")
