"""Create command-line options: options of settings from their declarations, and options of single commands."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import Field, fields
from functools import cache, partial
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from bhsearch.config.option import choice_names, choices_text, option_name, option_of
from bhsearch.config.settings import SECTIONS, type_of
from bhsearch.config.table import default_text

Function = Callable[..., None]
RESEARCH_ONLY = "Research only: not for screening patients."


class WholeHelp:
    """Mixin of commands and groups of commands whose help cuts no name and no text in a narrow terminal."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help in tables that fold long names. Typer's own tables end them with an ellipsis."""
        rich_utils: Any = importlib.import_module("typer.rich_utils")
        rich_utils.Table = _folding_table()
        super().format_help(ctx, formatter)  # type: ignore[misc]

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option `--help`, without the type that Typer shows for flags."""
        found = super().get_help_option(ctx)  # type: ignore[misc]
        if found is not None:
            found.metavar = ""
        return found


class Group(WholeHelp, TyperGroup):
    """A group of commands with whole help."""


class Command(WholeHelp, TyperCommand):
    """A command whose help wraps each paragraph of the docstring to the width of the terminal."""

    def __init__(self, *args: Any, **options: Any) -> None:
        text = options.get("help") or ""
        paragraphs = [" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n")]
        super().__init__(*args, **options | {"help": "\n\n".join(paragraphs)})


@cache
def _folding_table() -> type:
    """Return a subclass of Rich's table that folds words that are longer than a column."""
    from rich.columns import Columns
    from rich.table import Table
    from rich.text import Text

    def plain(cell: Any) -> Any:
        """Return the parts of a help text as one text, because `Columns` ends long words with an ellipsis, too."""
        if isinstance(cell, Columns) and all(isinstance(part, Text) for part in cell.renderables):
            return Text(" ").join(part for part in cell.renderables if isinstance(part, Text))
        return cell

    class FoldingTable(Table):
        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*map(plain, cells), **options)
            for column in self.columns:
                column.overflow = "fold"

    return FoldingTable


def make_app() -> typer.Typer:
    """Return a Typer application for one command."""
    return typer.Typer(add_completion=False, rich_markup_mode="rich")


def option(
    help: str,  # noqa: A002
    metavar: str = "",
    *spellings: str,
    choices: Callable[[], Sequence[str]] | None = None,
    kind: type | None = None,
) -> Any:
    """Return a Typer option.

    Args:
        help: Help text, including the default value.
        metavar: Placeholder of the value; empty for a flag.
        *spellings: Spellings of the option; by default the name of the parameter.
        choices: Function that returns the accepted values, for shell completion.
        kind: Type of the values, if it is `int` or `float`.
    """
    parser = {int: _whole_number, float: _number}.get(kind) if kind is not None else None
    return typer.Option(
        *spellings,
        help=help.replace("[", "\\["),
        metavar=metavar,
        show_default=False,
        autocompletion=None if choices is None else _completion(choices),
        parser=parser,
    )


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number.") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number.") from None


def settings_options(
    *names: str, required: Collection[str] = (), defaults: bool = True
) -> Callable[[Function], Function]:
    """Return a decorator that adds the options of settings to a command.

    The command receives the settings as keyword arguments, with None for options that are not given.

    Args:
        *names: Names of the settings; by default all settings.
        required: Settings that the user must give.
        defaults: Whether the help shows the defaults of the settings; False for a command with other defaults.
    """

    def decorate(command: Function) -> Function:
        signature = inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        hints = {name: hint for name, hint in get_type_hints(command, include_extras=True).items() if name != "return"}
        own = [parameter.replace(annotation=hints[parameter.name]) for parameter in own]
        taken = [
            _parameter(declared, section.title, declared.name in required, defaults)  # type: ignore[attr-defined]
            for section in SECTIONS
            for declared in fields(section)
            if not names or declared.name in names
        ]
        keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        command.__signature__ = inspect.Signature([*keyword_only, *taken])  # type: ignore[attr-defined]
        command.__annotations__ = hints | {parameter.name: parameter.annotation for parameter in taken}
        return command

    return decorate


def _parameter(declared: Field[Any], title: str, required: bool, defaults: bool) -> inspect.Parameter:
    """Return a setting as a function parameter, from which Typer creates an option."""
    declaration = option_of(declared)
    kind = _kind(declared.name, declaration.is_repeatable)
    made = option(
        _help(declared, defaults and not required),
        declaration.metavar,
        *_spellings(declared),
        choices=None if declaration.choices is None else partial(choice_names, declaration),
        kind=kind,
    )
    made.rich_help_panel = title
    return inspect.Parameter(
        declared.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else None,
        annotation=Annotated[kind if required else kind | None, made],
    )


def _kind(name: str, is_repeatable: bool) -> Any:
    """Return the type that the command line parses: `list[str]` for repeatable options, `str` for other tuples."""
    if is_repeatable:
        return list[str]
    hint = type_of(name)
    if get_origin(hint) is tuple:
        return str
    return next(kind for kind in get_args(hint) or (hint,) if kind is not type(None))


def _spellings(declared: Field[Any]) -> list[str]:
    name, aliases = option_name(declared.name), option_of(declared).aliases
    if declared.default is True:
        return [f"{name}/--no-{declared.name.replace('_', '-')}", *aliases]
    return [name, *aliases]


def _help(declared: Field[Any], with_default: bool) -> str:
    """Return the help text of a setting, with its choices and its default."""
    declaration = option_of(declared)
    notes = []
    if not all(name in declaration.help for name in choice_names(declaration)):
        notes.append(choices_text(declaration))
    default = default_text(declared)
    if with_default and default:
        notes.append(f"default: {default}")
    return f"{declaration.help} [{'; '.join(notes)}]" if notes else declaration.help


def _completion(choices: Callable[[], Sequence[str]]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in choices() if name.startswith(incomplete)]

    return complete
