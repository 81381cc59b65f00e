"""A study at the terminal: the plan, a bar with the best so far and the time left, a line a trial, and the result."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from bhsearch import terminal
from bhsearch.config import Settings
from bhsearch.data import pixels
from bhsearch.evaluation.selection import CORRECTED_NOTE
from bhsearch.search.engine import Trial
from bhsearch.search.reporter import Plan, Reporter
from bhsearch.search.result import Ranked, StudyResult
from bhsearch.search.space import Params
from bhsearch.search.summary import prospects
from bhsearch.states import COMPLETE, PRUNED
from bhsearch.tracking import links

N_BEST = 5
SCORE = "AUC: case-weighted, out of fold, mean over folds. [..]: 95 % over cases; variation of training not included."


def run_study(settings: Settings) -> None:
    """Run a study as a command does: show it, and end with 130 after Ctrl-C, 143 after SIGTERM, if it was stopped."""
    from bhsearch.search.study import optimize

    terminated = threading.Event()

    def terminate(*_: object) -> None:
        if not terminated.is_set():  # some batch systems send it to each process and to the group
            terminated.set()
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    result = optimize(settings, Reporter() if settings.quiet else TerminalReporter())
    if result.before is not None:
        print_result(result.before)
    print_result(result)
    if result.interrupted:
        sys.exit(143 if terminated.is_set() else 130)


class TerminalReporter(Reporter):
    """Says what a study does; plain lines where the output is no terminal.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console = terminal.out) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._started = time.monotonic()
        self._first = self._done = self._total = 0

    def plan(self, plan: Plan) -> None:
        """Show what is about to be done."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for heading, text in plan.rows:
            table.add_row(heading, Text(text))  # names may hold what Rich takes for markup
        self._console.print(table)
        print_warnings(self._console, plan.invalid, plan.warnings)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[pixels.Progress]:
        """A bar for work that takes a while; it disappears when the work is done."""
        if not self._console.is_terminal:
            started = time.monotonic()
            yield _ignore
            seconds = time.monotonic() - started
            if seconds > 1:
                self._console.print(f"{what}: {seconds:.1f} s")
            return
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn())
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    @contextlib.contextmanager
    def trials(self, done: int, total: int) -> Iterator[None]:
        """Around all trials."""
        self._started, self._first, self._done, self._total = time.monotonic(), done, done, total
        if not self._console.is_terminal:
            yield
            return
        columns = (
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            bar.add_task("", total=total, completed=done)
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    def trial(self, trial: Trial, best: Trial | None) -> None:
        """One line, and the bar's words."""
        self._console.print(
            trial_line(trial, best is not None and best.number == trial.number), soft_wrap=not self._console.is_terminal
        )
        if trial.counts:
            self._done += 1
        if self._bar is not None:
            task = self._bar.task_ids[0]
            words = f"best {best.value:.4f}" if best is not None and best.value is not None else "no score yet"
            self._bar.update(task, completed=self._done, description=f"{words}, {self._time_left()}")

    def say(self, sentence: str) -> None:
        """Something worth a line."""
        self._console.print(sentence, markup=False)

    def _time_left(self) -> str:
        done_here = self._done - self._first
        if not done_here:
            return "time left unknown"
        seconds = (time.monotonic() - self._started) / done_here * (self._total - self._done)
        return f"{seconds:.0f} s left" if seconds < 120 else f"{seconds / 60:.0f} min left"


def trial_line(trial: Trial, is_best: bool) -> Text:
    """A trial in one line: number, score or reason, seconds, and its main choices."""
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
    """The choices of a point that tell it best."""
    if "hidden_units" in params:
        head = f"mlp {params['hidden_units']}" if params["hidden_units"] else "linear"
        return f"{params['backbone']}, {params['policy']}, {head}"
    return f"{params['backbone']} {params['image_size']} px, {params['policy']}, {params['epochs']} epochs"


def print_warnings(console: Console, invalid: Iterable[str], warnings: Iterable[str]) -> None:
    """Why numbers mean nothing, in red; what to know before trusting them, in yellow."""
    for sentence in invalid:
        console.print(Text(f"These numbers mean nothing: {sentence}", style="bold red"))
    for sentence in warnings:
        console.print(Text(f"Note: {sentence}", style="yellow"))


def print_result(result: StudyResult, console: Console = terminal.out) -> None:
    """The best trials with intervals, those tied with the best, and what to do next."""
    if result.best is None:
        console.print("No trial is complete.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading, style in (("trial", ""), ("AUC", "bold"), ("95 %", ""), ("", "dim"), ("backbone", "")):
        table.add_column(heading, style=style, overflow="fold", no_wrap=heading in ("trial", "AUC", "95 %"))
    for row in result.ranking[:N_BEST]:
        table.add_row(
            str(row.trial.number),
            f"{row.trial.value:.4f}",
            _interval(row),
            "tied" if row.tied else "",
            Text(row.trial.params["backbone"]),
        )
    console.print()
    console.print(table)
    n_tied = sum(row.tied for row in result.ranking) - 1
    if n_tied > 0:
        console.print(
            f"{n_tied} other trials cannot be told from the best (paired bootstrap over cases, all gaps at once)."
        )
    console.print(Text(SCORE, style="dim"))
    console.print(Text("The best of many trials looks better than it is: these scores chose it.", style="dim"))
    _print_correction(result, console)
    notes = (f"{result.note}: the numbers say nothing about tissue.",) if result.note else ()
    print_warnings(console, result.invalid, (*notes, *result.findings))
    console.print()
    for sentence in prospects(result):
        console.print(Text(sentence, style="dim"))
    if result.stagnation is not None:
        console.print(f"Stopped: none of the last {result.stagnation} finished trials was better than the best before.")
    elif not result.done:
        console.print(f"{result.n_finished} of {result.wanted} trials are finished; the same command goes on.")
    if result.tracked:
        print_links(result.links, console)


def print_links(found: Sequence[str], console: Console) -> None:
    """Where the trials are in MLflow, and what shows them where no server does."""
    if not links.is_served():
        console.print("Next:  mlflow ui")
    for what, url in zip(("Trials:", "Parallel coordinates:"), found, strict=False):
        console.print(Text(f"{what} {url}"), soft_wrap=True)  # whole, so that it can be clicked


def _print_correction(result: StudyResult, console: Console) -> None:
    row = result.corrected
    if row is None:
        console.print(f"Corrected for having searched: not at hand, since {result.uncorrected}.", markup=False)
        return
    line = Text("Corrected for having searched: ")
    line.append(f"{row.score:.4f}", style="bold")
    line.append(f"  [{row.low:.3f} {row.high:.3f}]  instead of {row.raw:.4f} ({row.n_trials} trials)")
    console.print(line)
    console.print(Text(CORRECTED_NOTE, style="dim"))


def _interval(row: Ranked) -> str:
    return f"[{row.low:.3f} {row.high:.3f}]" if row.low == row.low else "not at hand"


def _ignore(done: int, total: int) -> None:
    """Progress that is not shown."""
