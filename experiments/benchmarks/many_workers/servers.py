"""A private PostgreSQL and a private MLflow server on loopback, which end with the benchmark and leave no files."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from bhsearch.errors import MissingError, RunError
from tests.faults import postgres as servers

_SECONDS = 120.0  # time limit for the start of a server


@contextmanager
def postgres() -> Iterator[Server]:
    """Yield a PostgreSQL server with its default settings, which waits for the disk at each commit.

    Raises:
        MissingError: If PostgreSQL is not installed, or there is no user other than root to run it.
    """
    with ExitStack() as stack:
        try:
            server = stack.enter_context(servers.postgres(settings=()))
        except servers.NoPostgresError as error:
            raise MissingError(f"{error}.") from error
        yield Server(server)


class Server:
    """A running PostgreSQL server.

    Attributes:
        process: The server; its children serve the connections.
    """

    def __init__(self, server: servers.Postgres) -> None:
        self._server, self.process = server, psutil.Process(server.pid)
        self._n_own = len(self.process.children())  # processes that serve no connection

    def url(self) -> str:
        """Create an empty database, and return its URL."""
        return self._server.new_database()

    def n_connections(self) -> int:
        """Return the number of open connections."""
        return len(self.process.children()) - self._n_own


@contextmanager
def mlflow_server(store: str, n_processes: int) -> Iterator[tuple[str, psutil.Process]]:
    """Yield the address of an MLflow server that also serves the artifacts, and its process.

    Args:
        store: Database URL of its store.
        n_processes: Number of processes that answer requests.
    """
    with tempfile.TemporaryDirectory(prefix="many-workers-") as folder:
        port = _free_port()
        command = [
            *_ends_with_this_process(),
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        command += ["--backend-store-uri", store, "--artifacts-destination", f"{folder}/artifacts"]
        command += ["--workers", str(n_processes)]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = Path(folder) / "log"
        with log.open("ab") as stream:
            process = psutil.Popen(
                command, cwd=folder, env=environment, stdout=stream, stderr=stream, start_new_session=True
            )
        try:
            uri, until = f"http://127.0.0.1:{port}", time.monotonic() + _SECONDS
            while not _is_healthy(uri):
                if process.poll() is not None or time.monotonic() > until:
                    raise RunError(f"The MLflow server did not start: {log.read_text()[-2000:]}")
                time.sleep(0.2)
            yield uri, process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def processor_seconds(process: psutil.Process) -> float:
    """Return the processor seconds of a process and its descendants, with those that it has waited for."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile, and its parent counts its seconds
            times = each.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _ends_with_this_process() -> list[str]:
    """Return the words before a command that let it end when this process is killed."""
    return ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []


def _is_healthy(uri: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
