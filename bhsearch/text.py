"""Text for messages and reports."""

from __future__ import annotations

from collections.abc import Sequence


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, such as `1 case` or `2 cases`."""
    return f"{count:,} {noun}" + ("s" if count != 1 else "")


def listed(items: Sequence[str], most: int = 20) -> str:
    """Join names for a message, one per line: at most `most` of them, then the number of the others."""
    shown = "\n".join(f"  {item}" for item in items[:most])
    rest = len(items) - most
    return shown if rest <= 0 else f"{shown}\n  and {rest} more"
