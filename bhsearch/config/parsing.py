"""Convert values of options and settings files to the types of their settings."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from bhsearch.errors import SettingsError

POOLINGS = ("cls", "mean", "cls+mean")  # tokens of a published encoder: class token, mean of the patches, or both
# Matches a + that separates two names of a class map, but not a + inside a name such as "IDC(+)" or "HER2+".
PLUS = re.compile(r"(?<=[^\s+(=])\+(?=[^\s+)])")


def expand_home(path: Any) -> Any:
    """Replace a leading `~` of a path by the home folder; return any other value unchanged."""
    return os.path.expanduser(path) if isinstance(path, str) and path.startswith("~") else path  # noqa: PTH111


def parse_names(value: Any) -> tuple[str, ...]:
    """Return names from a list or from comma-separated text.

    Raises:
        ValueError: If the value is neither a list of strings nor text.
    """
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError("a list of names")
    return tuple(expand_home(name.strip()) for name in names if name.strip())


def split_pooling(name: str) -> tuple[str, str | None]:
    """Split the name of a backbone, such as `FOLDER@cls+mean`, into the part before the pooling and the pooling.

    Returns:
        The whole name and None if it does not end with a pooling.
    """
    path, _, pooling = name.rpartition("@")
    return (path, pooling) if path and pooling in POOLINGS else (name, None)


def parse_repeated_names(value: Any) -> tuple[str, ...]:
    """Return names from a repeatable option, each occurrence of which may contain several comma-separated names.

    Raises:
        ValueError: If the value is neither a list of strings nor text.
    """
    return parse_names(",".join(parse_names(value)))


def parse_pairs(value: Any) -> tuple[str, ...]:
    """Return pairs `key=value` from a repeatable option, from a table of a settings file, or from a list of pairs.

    Keys of a table in the table are joined by a dot: `{"workers": {"gres": "gpu:1"}}` is `workers.gres=gpu:1`.

    Raises:
        SettingsError: If a pair has no key or no `=`.
    """
    if isinstance(value, Mapping):
        value = _flattened(value)
    pairs = value if isinstance(value, (list, tuple)) else [value]
    return tuple(_pair(each) for each in pairs)


def _pair(text: Any) -> str:
    key, sign, value = text.partition("=") if isinstance(text, str) else ("", "", "")
    if not (key.strip() and sign):
        raise SettingsError(f"--launcher-option must be KEY=VALUE, such as partition=gpu, but got {text!r}.")
    return f"{key.strip()}={value.strip()}"


def _flattened(table: Mapping[str, Any], prefix: str = "") -> list[str]:
    pairs = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            pairs += _flattened(value, f"{prefix}{key}.")
        else:
            pairs.append(f"{prefix}{key}={_as_text(value)}")
    return pairs


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_whole_numbers(value: Any) -> tuple[int, ...]:
    """Return whole numbers from a list or from comma-separated text.

    Raises:
        ValueError: If the value is neither, or an element is not a whole number.
    """
    numbers = value.split(",") if isinstance(value, str) else value
    try:
        if any(isinstance(number, (bool, float)) for number in numbers):
            raise ValueError
        return tuple(int(number) for number in numbers)
    except (TypeError, ValueError) as error:
        raise ValueError("a list of whole numbers") from error


def parse_class_map(value: Any) -> tuple[str, ...]:
    """Parse a class map, which assigns the data set's own class names to benign and malignant.

    Args:
        value: Text of an option, such as `benign=normal,malignant=cancer+invasive`; table of a settings file, such as
            `{benign = ["normal"]}`; or a list of pairs, which is returned as a tuple.

    Raises:
        SettingsError: If the value has none of these three forms.
    """
    if isinstance(value, str):
        pairs = []
        for item in filter(None, (item.strip() for item in value.split(","))):
            label, sign, names = item.partition("=")
            pairs += [f"{label.strip()}{sign}{name.strip()}" for name in PLUS.split(names)]
        return tuple(pairs)
    if isinstance(value, Mapping):
        table = {label: [names] if isinstance(names, (str, int)) else names for label, names in value.items()}
        if all(isinstance(names, list) and all(_is_name(name) for name in names) for names in table.values()):
            return tuple(f"{label}={name}" for label, names in table.items() for name in names)
    elif isinstance(value, (list, tuple)) and all(isinstance(pair, str) for pair in value):
        return tuple(value)
    raise SettingsError(
        'class_map must be a table such as {benign = ["normal"], malignant = ["cancer", "invasive"]}, but got '
        f"{value!r}."
    )


def _is_name(value: Any) -> bool:
    """Return whether a value can be a class name: text, or a whole number, as labels often are."""
    return isinstance(value, (str, int)) and not isinstance(value, bool)
