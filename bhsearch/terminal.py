"""What every command shares at the terminal: consoles, and errors turned into a sentence and an exit code."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
from rich.console import Console

from bhsearch.errors import BhsearchError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def main(app: typer.Typer, prog_name: str) -> NoReturn:
    """Run a command; end with 0, 1 (failed) or 2 (wrong input), with a sentence instead of a traceback."""
    try:
        app(prog_name=prog_name)
    except BhsearchError as error:
        err.print("[bold red]error:[/] ", end="")
        err.print(str(error), markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    sys.exit(0)
