"""What one process sends another reads as the same message, and what is no message is no error."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from bhsearch.runtime.messages import (
    Away,
    Back,
    Failed,
    Go,
    Note,
    Ready,
    Sent,
    from_line,
    message,
    to_line,
)

MESSAGES = [
    Go(),
    Ready("run", "1"),
    Sent(3, "run"),
    Note('two\nlines, "quotes" and 組織'),
    Away("HTTP 503"),
    Back(),
    Failed("x"),
]


@pytest.mark.parametrize("sent", MESSAGES, ids=lambda each: type(each).__name__)
def test_a_message_is_one_line_and_comes_back_as_it_was(sent):
    line = to_line(sent)
    assert "\n" not in line
    assert line.isascii()
    assert from_line(f"{line}\n") == sent


@pytest.mark.parametrize(
    "line", ["", "warning: a library prints", "[1]", "3", '{"kind": "Nosuch"}', '{"kind": "Sent"}']
)
def test_other_output_is_no_message(line):
    assert from_line(line) is None


def test_two_kinds_cannot_have_one_name():
    @dataclass(frozen=True)
    class Sent:
        """Another kind of that name."""

    with pytest.raises(ValueError, match="Sent is already registered"):
        message(Sent)
