"""A model hub on this machine, which answers `huggingface_hub` from folders."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED = "gated"  # name of the repository whose licence must be accepted


class _Hub(BaseHTTPRequestHandler):
    root: Path
    asked: list[str]

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.asked.append(self.path)
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[0] == "api"
        owner, name, *rest = parts[2:] if api else parts
        folder = self.root / owner / name
        if name == GATED:
            self._send(403, b"accept", {"X-Error-Code": "GatedRepo"}, body)
        elif not folder.is_dir():
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)
        elif api and rest[:1] in (["revision"], []) and rest[1:] in (["main"], [COMMIT], []):
            self._send(200, json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": []}).encode(), {}, body)
        elif api and rest[0] == "tree":
            rows = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _digest(file)}
                for file in sorted(folder.iterdir())
            ]
            self._send(200, json.dumps(rows).encode(), {}, body)
        elif rest[0] == "resolve" and (folder / rest[2]).is_file():
            file = folder / rest[2]
            self._send(200, file.read_bytes(), {"ETag": f'"{_digest(file)}"', "X-Repo-Commit": COMMIT}, body)
        else:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)

    def _send(self, code: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def hub_of(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a hub with the models `root/OWNER/NAME`, and the list of the paths that it was asked for."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"root": root, "asked": asked}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
