"""What every command shares at the terminal: consoles, and errors turned into a sentence and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import typer
from rich.console import Console

from bhsearch.cli.live_display import Display, duration
from bhsearch.errors import BhsearchError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
# What a write to standard output raises, without the name of a file, when its disk is full or its reader is gone.
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EPIPE)


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
    code = 0
    try:
        try:
            app(prog_name=prog_name)
        except SystemExit as end:  # how typer ends every command
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BhsearchError as error:
        _say(str(error))
        code = error.exit_code
    except OSError as error:
        if error.filename is not None or error.errno not in _NOT_WRITTEN:
            raise
        _discard_output()
        if error.errno != errno.EPIPE:  # whoever read it had enough
            _say(f"The output must be written to its end, but could not be: {error.strerror}.")
        code = BhsearchError.exit_code
    sys.exit(code)


def _say(sentence: str) -> None:
    with suppress(OSError):
        err.print("[bold red]error:[/] ", end="")
        err.print(sentence, markup=False, soft_wrap=True)


def _discard_output() -> None:
    """Drop what could not be written, or the interpreter would try again at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
