"""A private PostgreSQL on loopback that a test can take away and give back."""

from __future__ import annotations

import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import URL

USER = "ann"
_SECONDS = 60  # for a start or a stop; a second is usual
_PRIVATE = ("unix_socket_directories=", "listen_addresses=127.0.0.1")
_SMALL = ("fsync=off", "shared_buffers=32MB")


class NoPostgresError(Exception):
    """There is no PostgreSQL on this machine, or no user that it would run as."""


class Postgres:
    """A server with its own folder, port and password; see `postgres`.

    Attributes:
        folder: Holds data and log.
        port: On 127.0.0.1; kept over `stop` and `start`.
        password: Of `USER`; needs encoding in a URL.
    """

    def __init__(self, folder: Path, binaries: Path, user: str | None, settings: Sequence[str]) -> None:
        self.folder, self.port = folder, _free_port()
        self.password = f"p@ss:w/rd%&{secrets.token_hex(8)}"
        self._binaries, self._process, self._settings = binaries, None, (*settings, *_PRIVATE)
        self._as = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}

    @property
    def pid(self) -> int:
        """Process id of the running server, whose children serve the connections."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres", password: str | None = None) -> str:
        """As `--storage` takes it."""
        parts = {"host": "127.0.0.1", "port": self.port, "database": database}
        url = URL.create("postgresql+psycopg", USER, self.password if password is None else password, **parts)
        return url.render_as_string(hide_password=False)

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"d{secrets.token_hex(6)}"
        with self._connected() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def init(self) -> None:
        """Make the empty cluster."""
        password = self.folder / "password"
        password.write_text(self.password)
        options = [f"--username={USER}", f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8"]
        command = [self._binaries / "initdb", f"--pgdata={self.folder / 'data'}", "--no-sync", "--locale=C", *options]
        if self._as:
            shutil.chown(self.folder, self._as["user"], self._as["group"])
            shutil.chown(password, self._as["user"], self._as["group"])
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, timeout=_SECONDS, **self._as)
        password.unlink()

    def start(self) -> None:
        """Start, and return when it answers."""
        settings = [word for setting in (*self._settings, f"port={self.port}") for word in ("-c", setting)]
        command = [self._binaries / "postgres", "-D", self.folder / "data", *settings]
        if shutil.which("setpriv"):  # it then ends with the test, however that ends
            command = ["setpriv", "--pdeathsig", "QUIT", "--", *command]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self._as)
        until = time.monotonic() + _SECONDS
        while True:
            try:
                self._connected().close()
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > until:
                    said = (self.folder / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"PostgreSQL did not start: {error}\n{said}") from error
                time.sleep(0.05)

    def stop(self) -> None:
        """End all connections and the server; what was committed stays."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(_SECONDS)
            self._process = None

    def _connected(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=self.password, dbname="postgres", autocommit=True
        )


@contextmanager
def postgres(settings: Sequence[str] = _SMALL) -> Iterator[Postgres]:
    """A running PostgreSQL; it and its files are gone at the end.

    Args:
        settings: Settings of the server; by default those of a small one that does not wait for the disk.

    Raises:
        NoPostgresError: With the reason why there can be none.
    """
    binaries, user = _binaries(), _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="bhsearch-postgres-"))  # not in pytest's folder, which is the owner's alone
    server = Postgres(folder, binaries, user, settings)
    try:
        server.init()
        server.start()
        yield server
    finally:
        try:
            server.stop()
        finally:
            shutil.rmtree(folder)


def _binaries() -> Path:
    """Folder of initdb and postgres: by pg_config, in Debian's place, or on the path."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: -float(place.parent.name))
    if shutil.which("pg_config"):
        told = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=False)
        places.insert(0, Path(told.stdout.strip()))
    if found := shutil.which("initdb"):
        places.append(Path(found).resolve().parent)
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    raise NoPostgresError("PostgreSQL's server is not installed (Debian: postgresql)")


def _unprivileged() -> str | None:
    """The user to run as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise NoPostgresError("PostgreSQL refuses to run as root, and there is no user postgres or nobody")


def _free_port() -> int:
    """A free port that the system gives to nobody else while the server is away.

    Not one that it hands to outgoing connections: a client that keeps trying would at last be connected to itself.
    """
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port between 20000 and 32000")
