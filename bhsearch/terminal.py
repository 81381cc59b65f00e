"""What every command shares at the terminal: consoles, and errors turned into a sentence and an exit code."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import typer
from rich.console import Console

from bhsearch.errors import BhsearchError
from bhsearch.live import Display, duration

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@contextmanager
def starting(console: Console = out, quiet: bool = False) -> Iterator[None]:
    """Say that a command is starting, around imports that take seconds.

    Args:
        console: Where to.
        quiet: Whether to say nothing.
    """
    if quiet:
        yield
        return
    since = time.monotonic()
    with Display(console, lambda: [f"starting, {duration(time.monotonic() - since)}"]).shown():
        yield


@contextmanager
def lasting_err() -> Iterator[Console]:
    """A console on the error stream that is seen also where noise on that stream is kept out of sight.

    It is for commands whose standard output is data. Libraries are imported with file descriptor 2 turned away
    (`backend.quiet`), and progress would be turned away with it.
    """
    descriptor = None
    with suppress(OSError, ValueError, AttributeError):  # a notebook's or a test's stream has no descriptor
        descriptor = sys.stderr.fileno()
    if descriptor != 2:
        yield err
        return
    with os.fdopen(os.dup(2), "w") as stream:
        yield Console(file=stream, highlight=False)


def main(app: typer.Typer, prog_name: str) -> NoReturn:
    """Run a command; end with 0, 1 (failed) or 2 (wrong input), with a sentence instead of a traceback."""
    try:
        app(prog_name=prog_name)
    except BhsearchError as error:
        err.print("[bold red]error:[/] ", end="")
        err.print(str(error), markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    sys.exit(0)
