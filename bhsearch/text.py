"""Format text for messages and reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def plural(count: int, noun: str) -> str:
    """Return a count with a noun in the singular or plural, such as `1 case` or `2 cases`."""
    return f"{count:,} {noun}" + ("s" if count != 1 else "")


def verb(count: int, one: str, many: str) -> str:
    """Return the form of a verb that agrees with a count, such as `has` for 1 and `have` for 2."""
    return one if count == 1 else many


def capitalised(text: str) -> str:
    """Return a text with its first letter in upper case, and the others unchanged."""
    return text[:1].upper() + text[1:]


def listed(items: Sequence[str], most: int = 20) -> str:
    """Return names as indented lines for a message, with at most `most` names and the number of omitted names."""
    shown = "\n".join(f"  {item}" for item in items[:most])
    rest = len(items) - most
    return shown if rest <= 0 else f"{shown}\n  and {rest} more"


def named(names: Iterable[str], most: int = 5) -> str:
    """Return names as quoted text for a sentence: at most `most` names, then the number of further names."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def value_text(value: object, digits: int = 4) -> str:
    """Return the value of a parameter as text, a float with at most `digits` significant digits."""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Return a duration as text, such as `12 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
