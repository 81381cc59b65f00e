"""Numbers of things in sentences."""

from __future__ import annotations


def number_of(n: int, noun: str) -> str:
    """Return a number with its noun, in the singular for 1, such as `1 case` or `1,200 images`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
