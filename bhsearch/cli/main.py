"""The console script `bhsearch`, whose subcommands are imported only when they are used."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from bhsearch.cli import terminal
from bhsearch.cli.options import RESEARCH_ONLY, Group

# Help texts of the subcommands, kept here so that `bhsearch --help` imports no subcommand.
COMMANDS = {
    "run": "Search for the best network for a folder of images.",
    "studies": "List the studies of the MLflow store.",
    "report": "Write a study as one HTML page.",
    "register": "Test the proposed trial once on the sealed cases and register its model.",
    "predict": "Predict P(malignant) of images and cases with a registered model.",
    "validate": "Evaluate a registered model on an external cohort.",
    "reproduce": "Train a trial again and compare its predictions.",
    "dataset": "Inspect a data set and the cache.",
    "worker": "Join a running study from another terminal or machine.",
    "sync": "Send finished trials that wait in the outbox to MLflow.",
}


class LazyGroup(Group):
    """A command group that imports the module of a subcommand only when the subcommand is used."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: TyperCommand(name, help=sentence) for name, sentence in COMMANDS.items()}

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name of the requested subcommand, the imported subcommand, and its arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load_command(name), rest


def load_command(name: str) -> Any:
    """Import the module of a subcommand, and return the subcommand."""
    command = typer.main.get_command(importlib.import_module(f"bhsearch.cli.{name}").app)
    command.name = name
    return command


app = typer.Typer(cls=LazyGroup, rich_markup_mode="rich", no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        from bhsearch import __version__

        typer.echo(f"bhsearch {__version__}")
        raise typer.Exit


@app.callback(epilog=f"`bhsearch COMMAND --help` describes a command. {RESEARCH_ONLY}")
def bhsearch(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Search networks for breast histopathology without leaks, and log every trial to MLflow."""


def main() -> NoReturn:
    """Run the command line, and exit with code 0, 1 (failed) or 2 (wrong input)."""
    is_module = Path(sys.argv[0]).name == "__main__.py"
    terminal.main(app, "python -m bhsearch" if is_module else "bhsearch")
