"""Consoles of the commands, and conversion of errors to a message and an exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text

from bhsearch.cli.live_display import Display
from bhsearch.errors import BhsearchError
from bhsearch.text import duration

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
_ESCAPED = "backslashreplace"  # for characters that the encoding of the terminal lacks, such as ± in ASCII
# Error codes of a failed write to standard output: the disk is full, or the reader of the pipe has ended.
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EPIPE)


@contextmanager
def starting(console: Console = out, quiet: bool = False) -> Iterator[None]:
    """Show that a command is starting while the block runs, which imports slow packages.

    Args:
        console: Console to print to.
        quiet: Whether to show nothing.
    """
    if quiet:
        yield
        return
    since = time.monotonic()
    with Display(console, lambda: [f"starting, {duration(time.monotonic() - since)}"]).shown():
        yield


@contextmanager
def lasting_err() -> Iterator[Console]:
    """Yield a console on the error stream whose output stays visible while libraries are silenced.

    During imports, `backend.silence_stderr` redirects file descriptor 2, which would also hide progress. Commands that
    write data to standard output use this console for progress.
    """
    descriptor = None
    with suppress(OSError, ValueError, AttributeError):  # streams of notebooks and tests may have no descriptor
        descriptor = sys.stderr.fileno()
    if descriptor != 2:
        yield err
        return
    with os.fdopen(os.dup(2), "w", errors=_ESCAPED) as stream:
        yield Console(file=stream, highlight=False)


def print_warnings(sentences: Iterable[str]) -> None:
    """Print warnings on the error stream, one a line."""
    for sentence in sentences:
        err.print(Text(f"warning: {sentence}", style="yellow"), soft_wrap=True)


def main(app: typer.Typer, prog_name: str) -> NoReturn:
    """Run a command, and exit with code 0, 1 (failed) or 2 (wrong input).

    Errors of bhsearch are printed without a traceback.
    """
    code = 0
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors=_ESCAPED)
    try:
        try:
            app(prog_name=prog_name)
        except SystemExit as end:  # Typer ends every command with SystemExit
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BhsearchError as error:
        _print_error(str(error))
        code = error.exit_code
    except OSError as error:
        if error.filename is not None or error.errno not in _NOT_WRITTEN:
            raise
        _discard_output()
        if error.errno != errno.EPIPE:  # a closed pipe is not reported, because its reader has ended
            _print_error(f"The output could not be written completely: {error.strerror}.")
        code = BhsearchError.exit_code
    sys.exit(code)


def _print_error(sentence: str) -> None:
    with suppress(OSError):
        err.print("[bold red]error:[/] ", end="")
        err.print(sentence, markup=False, soft_wrap=True)


def _discard_output() -> None:
    """Discard buffered output, which the interpreter would otherwise try to write again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
