"""URLs of storages: their files, and removal of passwords, so that no log, MLflow run or message contains them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, unquote_plus

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from bhsearch.errors import SettingsError

_HIDDEN = "..."
_JOURNAL = "journal:"
_PLACE = re.compile(r"(\[[0-9a-fA-F:.%]*\]|[^:\[\]/]*)(:\d*)?(/.*)?", re.DOTALL)
_SHORTEST = 4  # characters; a shorter password may occur in any text by chance


def without_password(url: str) -> str:
    """Return a database URL with scheme, host, port and database name, without user, password and options.

    Any part that may belong to a password is omitted, too. The result is for display and may not be a valid URL.
    """
    if url.startswith(_JOURNAL):
        return url
    kind, rest = _parts(url)
    before, _, options = rest.partition("?")
    if kind.startswith("sqlite") and before.startswith("/"):  # a file name may contain any character
        return f"{kind}{before}"
    place = before.rpartition("@")[2]
    # The end of the password is unclear in two cases. With an @ after the ?, the @ may belong to an option, or the ? to
    # the password. With a port that is not a number, the "port" may be a password in a URL without a host.
    unclear = "@" in options or _PLACE.fullmatch(place) is None
    return f"{kind}{_HIDDEN if unclear else place}"


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite database; None for other databases, databases in memory and `file:` URIs."""
    try:
        parts = make_url(url)
    except ArgumentError:
        return None
    if parts.get_backend_name() != "sqlite" or not parts.database or parts.database.startswith(("file:", ":")):
        return None
    return Path(parts.database)


def journal_file(url: str) -> Path | None:
    """Return the file of a journal, `journal:PATH`; None for databases."""
    return Path(url.removeprefix(_JOURNAL)) if url.startswith(_JOURNAL) else None


def storage_file(url: str) -> Path | None:
    """Return the file of a storage, that is, of an SQLite database or of a journal; None for other storages."""
    return journal_file(url) or sqlite_file(url)


def server_host(url: str) -> str | None:
    """Return the host of a database server; empty for a socket of this machine.

    A PostgreSQL URL without a host has the host of the environment variable PGHOST.

    Returns:
        None for files, for invalid URLs, and if a service file of PostgreSQL names the host.
    """
    if storage_file(url) is not None:
        return None
    try:
        parts = make_url(url)
    except ArgumentError:
        return None
    host = parts.host or parts.query.get("host")
    if not host and parts.get_backend_name() == "postgresql":
        if parts.query.get("service") or os.environ.get("PGSERVICE"):
            return None
        host = os.environ.get("PGHOST")
    host = host if isinstance(host, str) else "" if host is None else host[0]
    return "" if host.startswith(("/", "@")) else host  # a folder, or an abstract name, of a socket


def check_storage(url: str) -> None:
    """Check that workers and later commands can access a storage.

    Args:
        url: Database URL, or `journal:PATH` for a journal.

    Raises:
        SettingsError: If the database is in memory, the journal has no path, or the operating system is one on which
            journals are not supported; the message suggests a URL.
    """
    if url.startswith(_JOURNAL):
        if not url.removeprefix(_JOURNAL):
            raise SettingsError("--storage journal: must name a file, such as --storage journal:/shared/studies.log.")
        if os.name == "nt":
            raise SettingsError(
                f"--storage {url} is not available on Windows. Use a database, such as sqlite:///optuna.db."
            )
        return
    try:
        parts = make_url(url)
    except ArgumentError:  # `connect` reports an invalid URL
        return
    name = parts.database or ""
    in_memory = not name or ":memory:" in name or "mode=memory" in url
    if parts.get_backend_name() == "sqlite" and in_memory:
        raise SettingsError(
            f"--storage must be a database that several processes can open, but {without_password(url)!r} exists only "
            "in memory. Use a file, such as --storage sqlite:///optuna.db."
        )


def scrubbed(text: str, url: str) -> str:
    """Return an error message with the URL's password masked, whether it occurs encoded, decoded or in part."""
    text = text.replace(url, without_password(url))
    secrets = _secrets(url)
    if any(secret in text for secret in secrets if len(secret) < _SHORTEST):
        return "an answer that may hold a part of the password and is not shown"
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _parts(url: str) -> tuple[str, str]:
    kind = re.match(r"[\w+.-]+://", url)
    return (kind[0], url[kind.end() :]) if kind else ("", url)


def _secrets(url: str) -> set[str]:
    kind, rest = _parts(url)
    if kind.startswith("sqlite"):
        return set()
    password = rest.rpartition("@")[0].partition(":")[2]
    # If the password contains an unencoded @, / or :, the driver mistakes a part of it for the host or the database, so
    # the parts can occur in messages on their own.
    found = {password, *re.split("[@/:?&#]", password)}
    for option in rest.partition("?")[2].split("&"):
        name, _, value = option.partition("=")
        if "pass" in name.lower() or "pwd" in name.lower():
            found.add(value)
    found |= {decode(secret) for secret in found for decode in (unquote, unquote_plus)}
    return found - {""}
