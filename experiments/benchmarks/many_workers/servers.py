"""A private PostgreSQL and a private MLflow server on loopback, which end with the benchmark and leave no files."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg

from bhsearch.errors import MissingError, RunError

_USER = "bench"
_SECONDS = 120.0  # time limit for the start of a server


class Postgres:
    """A running PostgreSQL server with its default settings, which waits for the disk at each commit.

    Attributes:
        process: The server; its children serve the connections.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._port, self._password = folder, _free_port(), secrets.token_hex(8)
        self.process = self._started()
        self.n_own = len(self.process.children())  # processes that serve no connection

    def _started(self) -> psutil.Process:
        binaries, user = _binaries(), _unprivileged()
        password = self._folder / "password"
        password.write_text(self._password)
        owner: dict[str, Any] = {}
        if user is not None:
            owner = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
            for place in (self._folder, password):
                shutil.chown(place, owner["user"], owner["group"])
        initial = [f"--username={_USER}", f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8"]
        command = [binaries / "initdb", f"--pgdata={self._folder / 'data'}", "--locale=C", *initial]
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder, **owner)
        with (self._folder / "log").open("ab") as log:
            options = (f"port={self._port}", "unix_socket_directories=", "listen_addresses=127.0.0.1")
            words = [word for option in options for word in ("-c", option)]
            command = [*_ends_with_this_process(), binaries / "postgres", "-D", self._folder / "data", *words]
            process = psutil.Popen(command, stdout=log, stderr=log, cwd=self._folder, **owner)
        until = time.monotonic() + _SECONDS
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                self._connected().close()
                return process
            if process.poll() is not None or time.monotonic() > until:
                raise RunError(f"PostgreSQL did not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def url(self) -> str:
        """Create an empty database, and return its URL."""
        name = f"d{secrets.token_hex(6)}"
        with self._connected() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://{_USER}:{self._password}@127.0.0.1:{self._port}/{name}"

    def n_connections(self) -> int:
        """Return the number of open connections."""
        return len(self.process.children()) - self.n_own

    def stop(self) -> None:
        """End the server at once: its files are not needed any more."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(_SECONDS)

    def _connected(self) -> psycopg.Connection[Any]:
        place = {"host": "127.0.0.1", "port": self._port, "dbname": "postgres"}
        return psycopg.connect(user=_USER, password=self._password, autocommit=True, **place)  # type: ignore[arg-type]


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Yield a PostgreSQL server in a temporary folder.

    Raises:
        MissingError: If PostgreSQL is not installed, or there is no user other than root to run it.
    """
    with tempfile.TemporaryDirectory(prefix="many-workers-") as folder:
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()


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


def _binaries() -> Path:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: -float(place.parent.name))
    if found := shutil.which("initdb"):
        places.append(Path(found).resolve().parent)
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    raise MissingError("PostgreSQL's server is not installed. Install it, for example with apt install postgresql.")


def _unprivileged() -> str | None:
    """Return the user to run PostgreSQL as, which refuses root; None for the current user."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return name
    raise MissingError("PostgreSQL refuses to run as root, and there is no user postgres or nobody.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
