"""Messages between a command and its uploader: a frozen dataclass per kind, sent as a line of JSON.

The uploader logs trials to MLflow. Both processes exchange messages through standard input and output.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

M = TypeVar("M", bound=type[Any])
_KINDS: dict[str, type[Any]] = {}


def message(kind: M) -> M:
    """Register a dataclass as a kind of message under the name of the class, and return the class.

    Raises:
        ValueError: If another kind has the same name.
    """
    if kind.__name__ in _KINDS:
        raise ValueError(f"A message class named {kind.__name__} is already registered.")
    _KINDS[kind.__name__] = kind
    return kind


@message
@dataclass(frozen=True)
class Go:
    """Tell the uploader that the search has begun, so that it may open the study in MLflow."""


@message
@dataclass(frozen=True)
class Ready:
    """Report that the MLflow run of the study exists."""

    run_id: str
    experiment_id: str


@message
@dataclass(frozen=True)
class Sent:
    """Report that a trial has been logged to MLflow."""

    number: int
    run_id: str


@message
@dataclass(frozen=True)
class Note:
    """A sentence to show to the user in the terminal."""

    sentence: str


@message
@dataclass(frozen=True)
class Away:
    """Report that MLflow is unavailable and that the uploader retries."""

    reason: str


@message
@dataclass(frozen=True)
class Back:
    """Report that MLflow is available again."""


@message
@dataclass(frozen=True)
class Failed:
    """Report that the uploader failed."""

    reason: str


def to_line(sent: Any) -> str:
    """Return a message as one line of JSON, without the newline."""
    return json.dumps({"kind": type(sent).__name__, **asdict(sent)})


def from_line(line: str) -> Any:
    """Return the message in a line of JSON; None if the line is not a message, such as the output of a library."""
    try:
        fields = json.loads(line)
        return _KINDS[fields.pop("kind")](**fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
