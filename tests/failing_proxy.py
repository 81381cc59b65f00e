"""A proxy before an MLflow server that fails requests as it is told: with a status, or by cutting the connection."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CUT, HALF, LOST = "cut", "half", "lost"  # before the request, in the middle of its answer, and after it was carried out
_NOT_PASSED_ON = ("host", "content-length", "accept-encoding", "connection", "transfer-encoding")


@dataclass(frozen=True)
class Failure:
    """How a request fails.

    Attributes:
        kind: HTTP status, `CUT`, `HALF` or `LOST`.
        body: Of the answer.
        headers: Of the answer.
    """

    kind: int | str
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


Rule = Callable[[str, str], Failure | None]  # of method and path with query


class FailingProxy:
    """Its `rule` decides about every request; None lets it through.

    Attributes:
        uri: As `MLFLOW_TRACKING_URI` takes it.
        rule: Of now.
        asked: Time, method and path of every request.
    """

    def __init__(self, target: str, tls: ssl.SSLContext | None = None) -> None:
        self.rule: Rule = lambda method, path: None
        self.asked: list[tuple[float, str, str]] = []
        self._target = urlsplit(target).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                proxy.asked.append((time.monotonic(), self.command, self.path))
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else None
                failure = proxy.rule(self.command, self.path)
                if failure is None:
                    self.pass_on(body)
                elif failure.kind == CUT:
                    self.close_connection = True
                elif failure.kind == LOST:
                    self.pass_on(body, answered=False)
                    self.close_connection = True
                elif failure.kind == HALF:
                    self.reply(200, {"Content-Type": "application/json"}, b'{"runs": [', 1000)
                    self.close_connection = True
                else:
                    self.reply(int(failure.kind), failure.headers, failure.body.encode())

            def pass_on(self, body: bytes | None, answered: bool = True) -> None:
                headers = {key: value for key, value in self.headers.items() if key.lower() not in _NOT_PASSED_ON}
                connection = http.client.HTTPConnection(proxy._target, timeout=60)
                try:
                    connection.request(self.command, self.path, body, headers)
                    found = connection.getresponse()
                    kept = {k: v for k, v in found.getheaders() if k.lower() not in _NOT_PASSED_ON}
                    content = found.read()
                    if answered:
                        self.reply(found.status, kept, content)
                finally:
                    connection.close()

            def reply(self, status: int, headers: dict[str, str], body: bytes, length: int | None = None) -> None:
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.uri = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def fail(self, failure: Failure, word: str = "", method: str = "", times: int = 1_000_000) -> None:
        """Fail the requests whose path has a word, so many times; lets all others through."""
        left = [times]

        def rule(how: str, path: str) -> Failure | None:
            if word not in path or method not in ("", how) or not left[0]:
                return None
            left[0] -= 1
            return failure

        self.rule = rule

    def heal(self) -> None:
        """Let everything through."""
        self.rule = lambda method, path: None
        self.asked.clear()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def failing_proxy(target: str, tls: ssl.SSLContext | None = None) -> Iterator[FailingProxy]:
    """A running proxy, gone at the end."""
    proxy = FailingProxy(target, tls)
    try:
        yield proxy
    finally:
        proxy.close()
