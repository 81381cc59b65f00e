"""The declaration of one setting: its help, choices and range beside its type and default."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field
from typing import Any

from bhsearch.errors import SettingsError

Choices = Sequence[str] | Mapping[str, Sequence[str]]
_METADATA_KEY = "bhsearch.option"


@dataclass(frozen=True)
class Option:
    """All that is known about a setting beyond its name, type and default.

    Attributes:
        help: One or two sentences for `--help` and the reference.
        metavar: Placeholder of the value in help, such as `SECONDS`; empty for a flag.
        choices: Function that returns the names that the setting takes, or a mapping of lists with a heading each; None
            where any value of the type will do.
        closed: Whether a value that is not one of the choices is refused here. Lists that packages can extend are
            checked by their registry, which knows the package that a missing name comes from.
        unset: Meaning of the default None.
        at_least: Smallest value that is accepted.
        above: Bound that the value must exceed.
        unit: Unit of the value, for messages.
        aliases: Further spellings of the option, such as `-q`.
        is_path: Whether the value is a path, in which `~` stands for the home folder.
        is_repeatable: Whether the option may be given several times.
        parse: Converts a value from the command line or a settings file; None for the conversion by type.
        belongs_to_command: Whether the setting belongs to one command rather than to the study, so that a worker that
            joins the study has its own.
    """

    help: str
    metavar: str = ""
    choices: Callable[[], Choices] | None = None
    closed: bool = False
    unset: str = ""
    at_least: float | None = None
    above: float | None = None
    unit: str = ""
    aliases: tuple[str, ...] = ()
    is_path: bool = False
    is_repeatable: bool = False
    parse: Callable[[Any], Any] | None = None
    belongs_to_command: bool = False


def setting(default: Any, help: str, metavar: str = "", **more: Any) -> Any:  # noqa: A002
    """Declare a field of a settings class.

    Args:
        default: Value where neither the command line nor a settings file gives one.
        help: As in `Option`.
        metavar: As in `Option`.
        **more: Further attributes of `Option`.
    """
    return field(default=default, metadata={_METADATA_KEY: Option(help, metavar, **more)})


def option_of(declared: Field[Any]) -> Option:
    """Return the declaration of a field that `setting` made."""
    option: Option = declared.metadata[_METADATA_KEY]
    return option


def choice_names(option: Option) -> tuple[str, ...]:
    """Return the names that a setting takes, each once; empty where it has no choices."""
    found = () if option.choices is None else option.choices()
    names = [name for group in found.values() for name in group] if isinstance(found, Mapping) else found
    return tuple(dict.fromkeys(names))


def choices_text(option: Option, quote: str = "") -> str:
    """Return the choices of a setting as text, such as `auto, frozen` or `optuna: tpe, random; keras-tuner: grid`.

    Args:
        option: Declaration of the setting.
        quote: Put before and after each name.
    """
    found = () if option.choices is None else option.choices()

    def joined(names: Sequence[str]) -> str:
        return ", ".join(f"{quote}{name}{quote}" for name in names)

    if isinstance(found, Mapping):
        return "; ".join(f"{heading}: {joined(names)}" for heading, names in found.items())
    return joined(found)


def option_name(field_name: str) -> str:
    """Return the long option of a setting: `--image-size` for `image_size`."""
    return f"--{field_name.replace('_', '-')}"


def check_value(name: str, option: Option, value: Any) -> None:
    """Refuse a value that is empty, not finite, out of range, or not one of a closed list of choices.

    Args:
        name: Name of the setting.
        option: Its declaration.
        value: Value of the right type, or None.

    Raises:
        SettingsError: Naming the option, the rule and the value.
    """
    rule, hint = "", ""
    if isinstance(value, str) and not value.strip():
        rule = "not be empty"
        hint = " An unset shell variable gives an empty value. Leave the option out, or give it a value."
    elif isinstance(value, float) and not math.isfinite(value):
        rule, hint = "be a finite number", " Leave the option out for no limit."
    elif option.closed and value is not None and option.choices is not None:
        known = choice_names(option)
        if value not in known:
            rule, hint = f"be one of {', '.join(known)}", did_you_mean(str(value), known)
    elif option.at_least is not None and value is not None and value < option.at_least:
        rule = f"be at least {option.at_least:g}{_with_unit(option)}"
    elif option.above is not None and value is not None and value <= option.above:
        rule = f"be above {option.above:g}{_with_unit(option)}"
    if rule:
        got = f"{value:g}" if isinstance(value, float) else repr(value)
        raise SettingsError(f"{option_name(name)} must {rule}, but got {got}.{hint}")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return the sentence that names the known word closest to a wrong one; empty where none is close."""
    close = difflib.get_close_matches(word, known, 1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _with_unit(option: Option) -> str:
    return f" {option.unit}" if option.unit else ""
