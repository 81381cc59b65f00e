"""Show the current activity of a command, in place at a terminal and as occasional lines in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bhsearch.runtime.background import repeated

SILENT_SECONDS = 2.0  # time without output after which a line is printed to a log file
LINE_SECONDS = 5.0  # shortest time between two of these lines
_LOOK_SECONDS = 0.25
_WIDE = 60  # columns that a progress bar needs

Count = tuple[int, int]


class Display:
    """A display of lines that change while a block runs.

    Blocks may be nested; the outermost block starts and ends the display. At a terminal, the lines are redrawn in place
    and disappear at the end. In a log file, a pipe or a notebook, the last of the lines is printed after
    `SILENT_SECONDS` without other output, and then at most every `LINE_SECONDS`.

    Args:
        console: Console to print to.
        lines: Function that returns the current lines; an empty list shows nothing.
        count: Function that returns the numbers of finished and of all items for a progress bar; None for no bar.
    """

    def __init__(
        self, console: Console, lines: Callable[[], list[str]], count: Callable[[], Count | None] = lambda: None
    ) -> None:
        self._console, self._lines, self._count = console, lines, count
        # Rich draws in a notebook only with ipywidgets, and warns without them.
        self.redraws = console.is_terminal and not console.is_jupyter and not console.is_dumb_terminal
        self._depth = 0
        self._printed = time.monotonic()

    def printed(self) -> None:
        """Record that other output was printed, which restarts the count of `SILENT_SECONDS`."""
        self._printed = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the lines while the block runs."""
        self._depth += 1
        try:
            if self._depth > 1:
                yield
            elif self.redraws:
                # Predictions may be written to standard output meanwhile, and must not be redirected to the console.
                with Live(console=self._console, get_renderable=self.render, transient=True, redirect_stdout=False):
                    yield
            else:
                with self._now_and_then():
                    yield
        finally:
            self._depth -= 1

    def render(self) -> RenderableType:
        """Return the progress bar and the lines, cut to the width of the terminal."""
        count, rows = self._count(), [Text(line, no_wrap=True, overflow="ellipsis") for line in self._lines()]
        if count is None or self._console.width < _WIDE or not rows:
            return Group(*rows)
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        grid.add_row(ProgressBar(total=count[1], completed=count[0]), rows[0])
        return Group(grid, *rows[1:])

    @contextmanager
    def _now_and_then(self) -> Iterator[None]:
        said = -LINE_SECONDS

        def look() -> None:
            nonlocal said
            now, lines = time.monotonic(), self._lines()
            if lines and now >= self._printed + SILENT_SECONDS and now >= said + LINE_SECONDS:
                said = now
                # A full disk or a closed pipe is for the command to report, which meets it with its next line.
                with suppress(OSError):
                    self._console.print(lines[-1], markup=False, soft_wrap=True)

        self.printed()
        with repeated(look, _LOOK_SECONDS):
            yield
