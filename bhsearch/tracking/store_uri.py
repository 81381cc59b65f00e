"""Check the address of the MLflow store, and remove passwords from addresses and messages.

Does not import MLflow, so that a wrong address is reported quickly.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bhsearch.errors import StudyError

VARIABLE = "MLFLOW_TRACKING_URI"
_USER = re.compile(r"(\w[\w+.-]*:/+)[^\s/'\"<>]*(?:/[^\s'\"<>@]*)*@")
_KNOWN = (
    "sqlite:////FOLDER/mlflow.db, postgresql://USER:PASSWORD@HOST/NAME, or an MLflow server such as http://HOST:5000"
)
_SHORTEST = 4  # characters; shorter passwords may occur in a message by chance and are not replaced


def tracking_uri() -> str:
    """Return the value of `MLFLOW_TRACKING_URI`; empty if it is not set."""
    return os.environ.get(VARIABLE, "").strip()


def check_uri(uri: str) -> None:
    """Check that MLflow reads an address as intended, and that bhsearch supports the store.

    Unknown URI schemes are accepted, because an MLflow plugin may support them.

    Raises:
        StudyError: If the address is wrong; the message says what to write instead.
    """
    why = _why_not(uri)
    if why:
        raise StudyError(
            f"{VARIABLE} must name a database or an MLflow server ({_KNOWN}), but got '{shown(uri)}': {why}"
        )


def _why_not(uri: str) -> str:
    scheme, colon, rest = uri.partition(":")
    scheme = scheme.lower()
    if scheme in ("databricks", "databricks-uc", "uc"):
        return "the stores of Databricks and Unity Catalog are not supported."
    if scheme in ("http", "https"):
        if not host_of(uri):
            return f"the name of a host is missing. Write {scheme}://HOST:PORT."
        return ""
    if scheme.startswith("sqlite"):
        return _why_not_sqlite(rest)
    if scheme == "postgres":
        return "the kind is called postgresql. Write postgresql://USER:PASSWORD@HOST/NAME."
    if scheme == "file" or not colon or re.match(r"[./~\\]", uri) or (len(scheme) == 1 and scheme.isalpha()):
        return _why_not_folder(uri, scheme)
    if "//" not in rest:  # HOST:PORT, or scheme:name
        if re.match(r"\d+(/|$)", rest) or re.fullmatch(r"[\d.]+", scheme):
            return f"the kind is missing. Write http://{shown(uri)}."
        return f"after the kind come two slashes. Write {scheme}://HOST."
    return ""


def host_of(uri: str) -> str:
    """Return the host in an address; empty if it names none."""
    try:
        return urlsplit(uri).hostname or ""
    except ValueError:  # unbalanced brackets
        return ""


def _why_not_sqlite(rest: str) -> str:
    name, _, options = rest.lstrip("/").partition("?")
    if not rest.startswith("///"):
        return f"after sqlite: come three slashes. Write sqlite:///{name or 'mlflow.db'}."
    if not name or ":memory:" in name or "mode=memory" in options:
        return "a database in memory ends with the process that opened it. Write sqlite:///mlflow.db."
    return ""


def _why_not_folder(uri: str, scheme: str) -> str:
    if (
        scheme == "file"
        or "/" in uri
        or "\\" in uri
        or uri.startswith(("~", "."))
        or Path(uri).is_dir()
        or uri == "mlruns"
    ):
        return (
            "MLflow does not keep runs in folders any more. Write sqlite:///mlflow.db; `mlflow migrate-filestore` "
            "moves old runs."
        )
    if uri.endswith((".db", ".sqlite")):
        return f"the kind is missing. Write sqlite:///{uri}."
    return f"the kind is missing. Write http://{uri} for a server, or sqlite:///mlflow.db for a file."


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite store; None for any other store."""
    kind, _, rest = uri.partition(":///")
    if not kind.startswith("sqlite"):
        return None
    return Path(unquote(rest.partition("?")[0]))


def shown(uri: str) -> str:
    """Return an address without user, password and query options; the options of SQLite addresses are kept."""
    before = uri if uri.startswith("sqlite") else uri.partition("?")[0]
    kind = re.match(r"(?:\w[\w+.-]*:)?/*", before)
    start = kind.end() if kind else 0
    if "@" not in before[start:]:
        return before
    if not before[:start].endswith("/"):  # ann:secret@host, without a scheme
        start = 0
    return before[:start] + before.rpartition("@")[2]


def hidden(text: str) -> str:
    """Return a message without the users, passwords and tokens of store addresses and MLflow variables."""
    uri = tracking_uri()
    if uri:
        text = text.replace(uri, shown(uri))
        text = text.replace(uri.rstrip("/"), shown(uri).rstrip("/"))
    text = _USER.sub(r"\1", text)
    for secret in _secrets(uri):
        text = text.replace(secret, "***")
    return text


def _secrets(uri: str) -> list[str]:
    user = uri.partition("//")[2].rpartition("@")[0]
    password = user.partition(":")[2]
    options = [pair.partition("=") for pair in uri.partition("?")[2].split("&")]
    found = {password, *(value for name, _, value in options if "pass" in name.lower() or "pwd" in name.lower())}
    found |= {os.environ.get(name, "") for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")}
    found |= {unquote(secret) for secret in found}
    return sorted((secret for secret in found if len(secret) >= _SHORTEST), key=len, reverse=True)
