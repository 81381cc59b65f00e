"""Print the result of a study: the best trials, the proposed trial with its warnings, and the commands to run next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bhsearch.cli import terminal
from bhsearch.evaluation.mixed_score import definition
from bhsearch.reporting import robustness_table
from bhsearch.study.outcome.result import StudyResult
from bhsearch.study.outcome.selection import RankedTrial
from bhsearch.study.outcome.summary import expected_improvement, remarks
from bhsearch.text import duration, plural, value_text, verb
from bhsearch.tracking.viewing import viewing_command

N_BEST = 5
CAVEATS = (
    "AUC is out-of-fold and case-weighted; [..] is a 95 % interval over cases.",
    "The corrected score (BBC-CV) is slightly optimistic; the sealed test is not.",
)


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
    """Print the best trials, the details of the proposed trial with its warnings, and the commands to run next.

    Args:
        result: Result of the study.
        console: Console to print to.
        seconds: Duration of the command in seconds; None to leave the line out.
    """
    print_ranking(result, console)
    print_proposed(result, console)
    print_robustness(result, console)
    for sentence in expected_improvement(result) if result.best is not None else ():
        console.print(sentence)
    if result.budget is not None and result.n_finished < result.wanted:
        console.print(f"Stopped: another trial would probably exceed the budget of {result.budget:g} minutes.")
    if result.stagnation is not None:
        console.print(
            f"Stopped: none of the last {plural(result.stagnation, 'finished trial')} improved the best score."
        )
    elif not result.done:
        console.print(
            f"{result.n_finished} of {plural(result.wanted, 'trial')} {verb(result.n_finished, 'is', 'are')} finished; "
            "the same command continues the study."
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
            *([f"{row.auc:.4f}"] if result.shift_weight else []),
            ", ".join([*(["tied"] if row.tied else []), *(["proposed"] if row.proposed else [])]),
            _backbone(result, row),
        )
        for row in result.ranking[:N_BEST]
    ]
    table = Table(box=None, pad_edge=False, header_style="dim")
    beside = [("AUC", "")] if result.shift_weight else []
    headings = [("trial", ""), (result.score_title, "bold"), ("95 %", ""), *beside, ("", "dim"), ("backbone", "")]
    for heading, style in headings:
        table.add_column(heading, style=style, no_wrap=True)
    for cells in rows:
        table.add_row(*map(Text, cells))
    console.print()
    if console.measure(table, options=console.options.update(width=1000)).maximum <= console.width:
        console.print(table)
        return
    for number, score, *ends, tied, backbone in rows:
        line = Text(f"trial {number:>3}  ").append(score, style="bold").append(f"  {'  AUC '.join(ends)}")
        console.print(line.append(f"  {tied}" if tied else "", style="dim"))
        console.print(Text(f"  {backbone}"))


def print_proposed(result: StudyResult, console: Console = terminal.out) -> None:
    """Print the details of the proposed trial, corrected score first, and the warnings about the result."""
    chosen = result.proposed
    if chosen is None:
        return
    console.print()
    console.print(Text(f"Proposed: trial {chosen.trial.number}", style="bold"))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    row = result.corrected
    if row is None:
        table.add_row(f"  corrected {result.score_title}", Text(f"not known, since {result.uncorrected}"))
    else:
        said = Text(f"{row.score:.4f}", style="bold")
        table.add_row(
            f"  corrected {result.score_title}",
            said.append(
                f"  [{row.low:.3f} {row.high:.3f}]  after a search of {plural(row.n_trials, 'trial')}", style="not bold"
            ),
        )
        if math.isfinite(row.bound):
            table.add_row("  lower bound", Text(f"{row.bound:.3f}  one-sided, adjusted for the search (MABT)"))
    if result.nested is not None:
        table.add_row(f"  nested {result.score_title}", Text(str(result.nested)))
    table.add_row(f"  {result.score_title}", f"{chosen.trial.value:.4f}  {_interval(chosen)}")
    if result.shift_weight:
        table.add_row("  AUC", f"{chosen.auc:.4f}  of unchanged images")
    if math.isfinite(chosen.milliseconds):
        table.add_row("  ms an image", f"{chosen.milliseconds:.2g}")
    for name, value in {**chosen.trial.params, "backbone": _backbone(result, chosen)}.items():
        table.add_row(f"  {name}", Text(value_text(value)))
    console.print(table)
    for sentence in result.selected_because():
        console.print(sentence, markup=False, highlight=False)
    console.print(ties(result))
    if result.no_nested:
        console.print(Text(f"The nested search has no score: {result.no_nested}.", style="yellow"))
    synthetic = (f"{result.note}: the numbers say nothing about tissue.",) if result.note else ()
    print_warnings(console, result.invalid, (*synthetic, *remarks(result), *result.findings))
    caveats: tuple[str, ...] = CAVEATS
    if result.shift_weight:
        caveats = (definition(result.shift_weight), CAVEATS[0].replace("AUC is", "Both are"), CAVEATS[1])
    for sentence in caveats if row is not None else caveats[:-1]:
        console.print(Text(sentence, style="dim"))


def print_robustness(result: StudyResult, console: Console = terminal.out) -> None:
    """Print the robustness of the best trials under shifts, and each shift for the proposed trial, if requested."""
    if result.no_robustness:
        console.print(Text(f"Robustness was not computed: {result.no_robustness}.", style="yellow"))
    if not result.robustness or result.proposed is None:
        return
    console.print()
    console.print(Text(robustness_table.TITLE, style="bold"))
    chosen = result.robustness.get(result.proposed.trial.number)
    tables = [(robustness_table.TRIAL_HEAD, robustness_table.trial_rows(result.robustness))]
    tables += [(robustness_table.SHIFT_HEAD, robustness_table.shift_rows(chosen))] if chosen is not None else []
    for head, rows in tables:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in head:
            table.add_column(name, justify="left" if "shift" in name else "right", no_wrap=True)
        for cells in rows:
            table.add_row(*map(Text, cells))
        console.print(table)
    console.print(Text(robustness_table.columns_note(result.shift_weight), style="dim"))


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
        if n_trials == 2:
            return "The other trial is not tied with the best."
        return f"None of the other {n_trials - 1} trials is tied with the best."
    return f"{n_tied} of {trials} are tied with the best."


def _backbone(result: StudyResult, row: RankedTrial) -> str:
    """Return the name of a trial's backbone, with those that it joins."""
    name = str(row.trial.params["backbone"])
    joined = result.joints.get(name)
    return f"{name} ({' + '.join(joined)})" if joined else name


def _interval(row: RankedTrial) -> str:
    return f"[{row.low:.3f} {row.high:.3f}]" if row.low == row.low else "not available"
