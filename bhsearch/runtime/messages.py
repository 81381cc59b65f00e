"""Messages between the processes of a command: one frozen dataclass a kind, sent as a line of JSON.

The uploader and the renderer exchange lines through standard input and output. Other modules can add kinds with
`message`, for example the workers of a study, whose connection pickles the same dataclasses because they hold arrays.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

M = TypeVar("M", bound=type[Any])
_KINDS: dict[str, type[Any]] = {}


def message(kind: M) -> M:
    """Register a dataclass as a kind of message, under its name.

    Raises:
        ValueError: If another kind has the name.
    """
    if kind.__name__ in _KINDS:
        raise ValueError(f"A kind of message must have a name of its own, but {kind.__name__} exists.")
    _KINDS[kind.__name__] = kind
    return kind


@message
@dataclass(frozen=True)
class Go:
    """The search has begun: the uploader may open the study in MLflow."""


@message
@dataclass(frozen=True)
class Ready:
    """The study has its run in MLflow."""

    run_id: str
    experiment_id: str


@message
@dataclass(frozen=True)
class Sent:
    """MLflow has a trial."""

    number: int
    run_id: str


@message
@dataclass(frozen=True)
class Note:
    """A sentence for the person at the terminal."""

    sentence: str


@message
@dataclass(frozen=True)
class Away:
    """MLflow cannot be reached, and is waited for."""

    reason: str


@message
@dataclass(frozen=True)
class Back:
    """MLflow can be reached again."""


@message
@dataclass(frozen=True)
class Failed:
    """The process cannot go on, or not with the trial that it was asked for."""

    reason: str


@message
@dataclass(frozen=True)
class Render:
    """The pictures of a trial are wanted."""

    number: int


@message
@dataclass(frozen=True)
class Rendered:
    """The pictures of a trial are drawn."""

    number: int


def to_line(sent: Any) -> str:
    """Return a message as one line of JSON, without the newline."""
    return json.dumps({"kind": type(sent).__name__, **asdict(sent)})


def from_line(line: str) -> Any:
    """Return the message of a line; None if the line is not a message, such as the output of a library."""
    try:
        fields = json.loads(line)
        return _KINDS[fields.pop("kind")](**fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
