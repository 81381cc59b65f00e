"""Database URLs without their passwords, which must not reach a log, a run, a tag or an error message."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, unquote_plus

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from bhsearch.errors import SettingsError

_HIDDEN = "..."
_PLACE = re.compile(r"(\[[0-9a-fA-F:.%]*\]|[^:\[\]/]*)(:\d*)?(/.*)?", re.DOTALL)
_SHORTEST = 4  # letters; what is shorter stands in any sentence by chance


def without_password(url: str) -> str:
    """Return a database URL that can be shown: kind, host, port and database, without user, password and options.

    What cannot be told from a part of a password is left out, too: this is for reading, not for connecting.
    """
    kind, rest = _parts(url)
    before, _, options = rest.partition("?")
    if kind.startswith("sqlite") and before.startswith("/"):  # a file, whose name may hold anything
        return f"{kind}{before}"
    place = before.rpartition("@")[2]
    # An @ after the ? is one in an option, or the ? is one in a password; a word for a port is a password without host.
    unclear = "@" in options or _PLACE.fullmatch(place) is None
    return f"{kind}{_HIDDEN if unclear else place}"


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite database; None for any other, and for one whose options name the file."""
    try:
        parts = make_url(url)
    except ArgumentError:
        return None
    if parts.get_backend_name() != "sqlite" or not parts.database or parts.database.startswith(("file:", ":")):
        return None
    return Path(parts.database)


def check_storage(url: str) -> None:
    """Refuse a database in memory, which workers and the next command could not see.

    Raises:
        SettingsError: Saying what to write instead.
    """
    try:
        parts = make_url(url)
    except ArgumentError:  # opening it says what is wrong
        return
    name = parts.database or ""
    in_memory = not name or ":memory:" in name or "mode=memory" in url
    if parts.get_backend_name() == "sqlite" and in_memory:
        raise SettingsError(
            f"--storage must be a database that other processes can open, but {without_password(url)!r} is in the "
            "memory of one. Write sqlite:///optuna.db."
        )


def scrubbed(text: str, url: str) -> str:
    """Return a message about a database without the password of its URL, be it encoded, plain or partial."""
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
    # Where an @, / or : in it was not encoded, the driver takes a part of the password for the host or the database.
    found = {password, *re.split("[@/:?&#]", password)}
    for option in rest.partition("?")[2].split("&"):
        name, _, value = option.partition("=")
        if "pass" in name.lower() or "pwd" in name.lower():
            found.add(value)
    found |= {decode(secret) for secret in found for decode in (unquote, unquote_plus)}
    return found - {""}
