"""Reference of the settings: one Markdown table per section, generated from the declarations of the fields."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any

from bhsearch.config.option import choices_text, option_name, option_of
from bhsearch.config.settings import SECTIONS


def markdown_tables() -> str:
    """Return the reference of all settings in Markdown, with a heading and a table per section."""
    parts = []
    for section in SECTIONS:
        rows = [_row(declared) for declared in fields(section)]
        head = "| option | TOML key | values | default | |\n| --- | --- | --- | --- | --- |"
        title = section.title  # type: ignore[attr-defined]
        parts.append(f"### {title}\n\n{section.__doc__}\n\n{head}\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def default_text(declared: Field[Any]) -> str:
    """Return the default of a setting as written by a user, or the meaning of an unset value if the default is None.

    The text is empty for an empty default and for a flag that is off by default.
    """
    default, option = declared.default, option_of(declared)
    if default is None:
        return option.unset
    if isinstance(default, bool):
        return "yes" if default else ""
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def values_text(declared: Field[Any], quote: str = "") -> str:
    """Return the choices of a setting or, without choices, the placeholder of its value; `yes or no` for a flag."""
    option = option_of(declared)
    return choices_text(option, quote) or option.metavar or "yes or no"


def _row(declared: Field[Any]) -> str:
    option = option_of(declared)
    names = [option_name(declared.name), *option.aliases]
    if declared.default is True:
        names.append(f"--no-{declared.name.replace('_', '-')}")
    values, default = values_text(declared, "`"), default_text(declared)
    if default and default != option.unset:
        default = f"`{default}`"
    cells = [", ".join(f"`{name}`" for name in names), f"`{declared.name}`", values, default, option.help]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
