"""Show a study at the terminal: plan, current activity, one line per trial, and result."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bhsearch.cli import terminal
from bhsearch.cli.live_display import Display, duration
from bhsearch.config import Settings
from bhsearch.data.images import pixel_cache
from bhsearch.engines.base import Trial
from bhsearch.objectives.space import Params
from bhsearch.states import COMPLETE, PRUNED
from bhsearch.study.events import ProgressReporter, StudyPlan
from bhsearch.study.result import RankedTrial, StudyResult
from bhsearch.study.summary import expected_improvement, remarks
from bhsearch.text import plural, value_text
from bhsearch.tracking.viewing import viewing_command

N_BEST = 5
CAVEATS = (
    "AUC is out-of-fold and case-weighted; [..] is a 95 % interval over cases.",
    "The corrected score (BBC-CV) is slightly optimistic; the sealed test is not.",
)


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
        print_best(result.before)
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
        return f"{params['backbone']}, {params['policy']}, {head}"
    return f"{params['backbone']} {params['image_size']} px, {params['policy']}, {params['epochs']} epochs"


def print_warnings(console: Console, invalid: Iterable[str], warnings: Iterable[str]) -> None:
    """Print the reasons for invalid numbers in red, and further warnings in yellow.

    Args:
        console: Console to print to.
        invalid: Reasons why the numbers are invalid.
        warnings: Further warnings.
    """
    for sentence in invalid:
        console.print(Text(f"These numbers mean nothing: {sentence}", style="bold red"))
    for sentence in warnings:
        console.print(Text(f"Note: {sentence}", style="yellow"))


def print_result(result: StudyResult, console: Console = terminal.out, seconds: float | None = None) -> None:
    """Print the best trials, the details of the best trial with its warnings, and the commands to run next.

    Args:
        result: Result of the study.
        console: Console to print to.
        seconds: Duration of the command in seconds; None to leave the line out.
    """
    print_ranking(result, console)
    print_best(result, console)
    for sentence in expected_improvement(result) if result.best is not None else ():
        console.print(sentence)
    if result.stagnation is not None:
        console.print(f"Stopped: none of the last {result.stagnation} finished trials improved the best score.")
    elif not result.done:
        console.print(
            f"{result.n_finished} of {result.wanted} trials are finished; the same command continues the study."
        )
    if seconds is not None:
        console.print(f"Total time: {duration(seconds)}")
    for what, url in zip(("Trials:", "Parallel coordinates:"), result.links, strict=False):
        console.print(f"{what} {url}", markup=False, soft_wrap=True)  # not wrapped, so that the link can be clicked
    if result.best is None:
        return
    console.print()
    if not result.tracked:
        console.print("Without MLflow (--no-tracking) there is no run to view, report or register.")
        return
    console.print("Next:")
    for command in next_commands(result):
        console.print(f"  {command}", markup=False, soft_wrap=True)  # not wrapped, so that the command can be copied


def next_commands(result: StudyResult) -> list[str]:
    """Return the shell commands that view, report and register a tracked study."""
    name = shlex.quote(result.study)
    study = f"--study={name}" if result.study.startswith("-") else f"--study {name}"
    return [viewing_command(), f"python -m bhsearch.report {study}", f"python -m bhsearch.register {study}"]


def print_ranking(result: StudyResult, console: Console = terminal.out) -> None:
    """Print the best trials with their intervals, on two lines per trial if the terminal is narrow."""
    if result.best is None:
        console.print("No trial is complete.")
        return
    rows = [
        (
            str(row.trial.number),
            f"{row.trial.value:.4f}",
            _interval(row),
            "tied" if row.tied else "",
            str(row.trial.params["backbone"]),
        )
        for row in result.ranking[:N_BEST]
    ]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading, style in (("trial", ""), ("AUC", "bold"), ("95 %", ""), ("", "dim"), ("backbone", "")):
        table.add_column(heading, style=style, no_wrap=True)
    for cells in rows:
        table.add_row(*map(Text, cells))
    console.print()
    if console.measure(table, options=console.options.update(width=1000)).maximum <= console.width:
        console.print(table)
        return
    for number, score, ends, tied, backbone in rows:
        line = Text(f"trial {number:>3}  ").append(score, style="bold").append(f"  {ends}")
        console.print(line.append(f"  {tied}" if tied else "", style="dim"))
        console.print(Text(f"  {backbone}"))


def print_best(result: StudyResult, console: Console = terminal.out) -> None:
    """Print the details of the best trial, corrected score first, and the warnings about the result."""
    best = result.best
    if best is None:
        return
    console.print()
    console.print(Text(f"Best: trial {best.trial.number}", style="bold"))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    row = result.corrected
    if row is None:
        table.add_row("  corrected AUC", Text(f"not known, since {result.uncorrected}"))
    else:
        said = Text(f"{row.score:.4f}", style="bold")
        table.add_row(
            "  corrected AUC",
            said.append(
                f"  [{row.low:.3f} {row.high:.3f}]  after a search of {plural(row.n_trials, 'trial')}", style="not bold"
            ),
        )
    table.add_row("  AUC", f"{best.trial.value:.4f}  {_interval(best)}")
    for name, value in best.trial.params.items():
        table.add_row(f"  {name}", Text(value_text(value)))
    console.print(table)
    console.print(ties(result))
    synthetic = (f"{result.note}: the numbers say nothing about tissue.",) if result.note else ()
    print_warnings(console, result.invalid, (*synthetic, *remarks(result), *result.findings))
    for sentence in CAVEATS if row is not None else CAVEATS[:1]:
        console.print(Text(sentence, style="dim"))


def ties(result: StudyResult) -> str:
    """Return a sentence with the number of complete trials that are tied with the best trial.

    The best trial counts as tied with itself.
    """
    n_trials, n_tied = len(result.ranking), sum(row.tied for row in result.ranking)
    trials = f"{n_trials} trials" if n_trials == result.n_finished else f"{n_trials} complete trials"
    if not n_tied:
        return "The trials tied with the best are not known, because its predictions are not available."
    if n_trials == 1:
        return "There is no other complete trial to compare it with."
    if n_tied == 1:
        return f"None of the other {n_trials - 1} trials is tied with the best."
    return f"{n_tied} of {trials} are tied with the best."


def _interval(row: RankedTrial) -> str:
    return f"[{row.low:.3f} {row.high:.3f}]" if row.low == row.low else "not available"
