"""Show a study at the terminal: plan, current activity and one line per trial; `result_table` prints the result."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bhsearch.cli import terminal
from bhsearch.cli.live_display import Display
from bhsearch.cli.result_table import print_proposed, print_ranking, print_result, print_warnings
from bhsearch.config import Settings
from bhsearch.data.images import pixel_cache
from bhsearch.engines.base import Trial
from bhsearch.objectives.space import Params
from bhsearch.states import COMPLETE, PRUNED
from bhsearch.study.events import ProgressReporter, StudyPlan
from bhsearch.text import duration, plural


def run_study(settings: Settings) -> None:
    """Run a study, and print its progress and result.

    If the study was interrupted, the process exits with code 130 after Ctrl-C, or 143 after SIGTERM.
    """
    with terminal.starting(quiet=settings.quiet):
        from bhsearch.study.runner import optimize

    terminated = threading.Event()

    def terminate(*_: object) -> None:
        if not terminated.is_set():  # some batch systems send SIGTERM twice: to the process and to its group
            terminated.set()
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    result = optimize(settings, ProgressReporter() if settings.quiet else TerminalReporter())
    if result.before is not None:
        print_ranking(result.before)
        print_proposed(result.before)
    if not result.partial:
        print_result(result, seconds=time.time() - psutil.Process().create_time())
    if result.interrupted:
        sys.exit(143 if terminated.is_set() else 130)


@dataclass
class _Step:
    """A named step of work that is in progress."""

    what: str
    since: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since

    def line(self, doing: str = "") -> str:
        what = f"{self.what} {self.done}/{self.total}" if self.total else self.what
        return ", ".join([part for part in (what, doing, duration(self.seconds)) if part])


class TerminalReporter(ProgressReporter):
    """A reporter that shows progress in place at a terminal, and as plain lines elsewhere.

    Args:
        console: Console to print to.
    """

    def __init__(self, console: Console = terminal.out) -> None:
        self._console = console
        self._display = Display(console, self._lines, self._count)
        self._steps: list[_Step] = []
        self._trials: _Trials | None = None
        self._doing = ""  # current activity inside a step when no study runs

    def plan(self, plan: StudyPlan) -> None:
        """Print the plan of a study and its warnings."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for heading, text in plan.rows:
            table.add_row(heading, Text(text))  # not parsed, because names may contain Rich markup
        self._console.print(table)
        print_warnings(self._console, plan.invalid, plan.warnings)
        self._display.printed()

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[pixel_cache.Progress]:
        """Show name, progress and duration of a step while the block runs."""
        step = _Step(what)

        def progress(done: int, total: int) -> None:
            step.done, step.total = done, total

        self._steps.append(step)
        try:
            with self._display.shown():
                yield progress
        finally:
            self._steps.remove(step)
            self._doing = ""
        if not self._display.redraws and step.seconds > 1:
            self.say(f"{what}: {step.seconds:.1f} s")

    @contextlib.contextmanager
    def trials(self, done: int, total: int, best: Trial | None = None) -> Iterator[None]:
        """Show finished trials, best score, time left and the latest running trial while the block runs."""
        self._trials = _Trials(done, total, best)
        try:
            with self._display.shown():
                yield
        finally:
            self._trials = None

    def began(self, number: int) -> None:
        """Add a newly started trial to the display."""
        if self._trials is not None:
            self._trials.running[number] = _Step(f"trial {number}")
            self._trials.latest = number

    def doing(self, what: str, number: int | None = None) -> None:
        """Show the current activity of a trial."""
        if self._trials is None:
            self._doing = what
            return
        number = self._trials.latest if number is None else number
        if number in self._trials.running:
            self._trials.running[number].what = f"trial {number}: {what}"
            self._trials.latest = number

    def trial(self, trial: Trial, best: Trial | None) -> None:
        """Print one line for an ended trial, and remove the trial from the display."""
        self._console.print(
            trial_line(trial, best is not None and best.number == trial.number), soft_wrap=not self._console.is_terminal
        )
        self._display.printed()
        if self._trials is not None:
            self._trials.ended(trial, best)

    def say(self, sentence: str) -> None:
        """Print a sentence for the user."""
        self._console.print(sentence, markup=False)
        self._display.printed()

    def verbatim(self, line: str) -> None:
        """Print a line without wrapping it."""
        self._console.print(line, markup=False, soft_wrap=True)
        self._display.printed()

    def _lines(self) -> list[str]:
        lines = [] if self._trials is None else self._trials.lines()
        return [*lines, *(step.line(self._doing) for step in self._steps[-1:])]

    def _count(self) -> tuple[int, int] | None:
        return None if self._trials is None else (self._trials.done, self._trials.total)


class _Trials:
    """The progress of the trials of a study.

    Attributes:
        done: Number of finished trials.
        total: Number of finished trials at which the study ends.
        running: Running trials, by number.
        latest: Number of the trial that most recently reported an activity.
    """

    def __init__(self, done: int, total: int, best: Trial | None) -> None:
        self.done, self.total, self.latest = done, total, -1
        self.running: dict[int, _Step] = {}
        self._first, self._since, self._best = done, time.monotonic(), best

    def ended(self, trial: Trial, best: Trial | None) -> None:
        """Remove an ended trial from the running trials, and count it if it is finished."""
        self.running.pop(trial.number, None)
        self.done += trial.counts
        self._best = best

    def lines(self) -> list[str]:
        """Return one line for the study and one line for the running trial that most recently reported an activity."""
        seconds = time.monotonic() - self._since
        best = "no score yet" if self._best is None or self._best.value is None else f"best {self._best.value:.4f}"
        lines = [f"{self.done}/{self.total} trials, {best}, {self._left(seconds)}, {duration(seconds)} so far"]
        running = self.running.get(self.latest) or next(iter(self.running.values()), None)
        return [*lines, running.line()] if running is not None else lines

    def _left(self, seconds: float) -> str:
        done_here = self.done - self._first
        if self.done >= self.total:
            return "waiting for workers to end"
        if not done_here:
            return "time left unknown"
        return f"{duration(seconds / done_here * (self.total - self.done))} left"


def trial_line(trial: Trial, is_best: bool) -> Text:
    """Return a trial as one line: number, score or reason of failure, duration, and main parameters."""
    line = Text(f"trial {trial.number:>3}  ")
    if trial.state == PRUNED:
        line.append("pruned  ", style="dim")
    elif trial.state != COMPLETE:
        return line.append(f"{trial.state}: {trial.notes.get('reason', '')}", style="red")
    else:
        line.append(f"{trial.value:.4f}", style="bold green" if is_best else "")
        line.append(" *" if is_best else "  ")
    line.append(f" {trial.notes.get('seconds', 0):5.1f} s  ", style="dim")
    return line.append(_choices(trial.params))


def _choices(params: Params) -> str:
    """Return the main parameters of a trial as text."""
    if "hidden_units" in params:
        head = f"mlp {params['hidden_units']}" if params["hidden_units"] else "linear"
        return ", ".join([params["backbone"], *([params["policy"]] if "policy" in params else []), head])
    return f"{params['backbone']} {params['image_size']} px, {params['policy']}, {plural(params['epochs'], 'epoch')}"
