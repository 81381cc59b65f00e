"""Declaration of settings: help, choices and range of each setting, in addition to type and default."""

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
    """Metadata of a setting in addition to its name, type and default.

    Attributes:
        help: One or two sentences for `--help` and the reference.
        metavar: Placeholder for the value in help, such as `SECONDS`; empty for a flag.
        choices: Function that returns the allowed names, either as one sequence or as a mapping from heading to
            sequence; None if every value of the type is allowed.
        closed: Whether `check_value` refuses a value that is not one of the choices. False for lists that other
            packages can extend: their registry checks the value and can name the package that is not installed.
        unset: Description of the behaviour if the value is None.
        at_least: Inclusive lower bound.
        above: Exclusive lower bound.
        unit: Unit of the value, for messages.
        aliases: Further spellings of the option, such as `-q`.
        is_path: Whether the value is a path in which a leading `~` is expanded to the home folder.
        is_repeatable: Whether the option may be given several times.
        variable: Environment variable that sets the value if neither an option nor a settings file
            does; empty for none.
        parse: Function that converts a value from the command line or a settings file; None to convert by type.
        belongs_to_command: Whether the setting applies to a single command rather than to the study. A worker that
            joins the study does not inherit it.
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
    variable: str = ""
    parse: Callable[[Any], Any] | None = None
    belongs_to_command: bool = False


def setting(default: Any, help: str, metavar: str = "", **more: Any) -> Any:  # noqa: A002
    """Declare a field of a settings class.

    Args:
        default: Value used if neither the command line nor a settings file sets the field.
        help: See `Option`.
        metavar: See `Option`.
        **more: Further attributes of `Option`.
    """
    return field(default=default, metadata={_METADATA_KEY: Option(help, metavar, **more)})


def option_of(declared: Field[Any]) -> Option:
    """Return the `Option` of a field that was declared with `setting`."""
    option: Option = declared.metadata[_METADATA_KEY]
    return option


def choice_names(option: Option) -> tuple[str, ...]:
    """Return the allowed names of a setting without duplicates; empty if the setting has no choices."""
    found = () if option.choices is None else option.choices()
    names = [name for group in found.values() for name in group] if isinstance(found, Mapping) else found
    return tuple(dict.fromkeys(names))


def choices_text(option: Option, quote: str = "") -> str:
    """Return the choices of a setting as text, such as `auto, frozen` or `optuna: tpe, random; keras-tuner: grid`.

    Args:
        option: Declaration of the setting.
        quote: Quotation mark written before and after each name.
    """
    found = () if option.choices is None else option.choices()

    def joined(names: Sequence[str]) -> str:
        return ", ".join(f"{quote}{name}{quote}" for name in names)

    if isinstance(found, Mapping):
        return "; ".join(f"{heading}: {joined(names)}" for heading, names in found.items())
    return joined(found)


def option_name(field_name: str) -> str:
    """Return the long command-line option of a field, such as `--image-size` for `image_size`."""
    return f"--{field_name.replace('_', '-')}"


def check_value(name: str, option: Option, value: Any) -> None:
    """Check that a value is not empty, is finite and in range, and is one of the choices if they are closed.

    Args:
        name: Field name of the setting.
        option: Declaration of the setting.
        value: Value of the field's type, or None.

    Raises:
        SettingsError: If the value breaks one of these rules. The message names the option, the rule and the value.
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
    """Return a sentence that suggests the known word closest to `word`; empty if no known word is close."""
    close = difflib.get_close_matches(word, known, 1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _with_unit(option: Option) -> str:
    return f" {option.unit}" if option.unit else ""
