"""A console that keeps what is printed, and trials and results to print."""

from __future__ import annotations

import io

from rich.console import Console

from bhsearch.cli.result_table import print_result
from bhsearch.engines.base import Trial
from bhsearch.states import COMPLETE, FAILED
from bhsearch.study.outcome.result import StudyResult
from bhsearch.study.outcome.selection import RankedTrial

PARAMS = {"backbone": "staintex-s", "policy": "dihedral", "hidden_units": 16}
NAN = float("nan")


def console(terminal: bool = False, width: int = 100) -> Console:
    colours = "standard" if terminal else None
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, highlight=False, color_system=colours)


def text(of: Console) -> str:
    return of.file.getvalue()


def trial(number=0, value=0.8):
    return Trial(number, COMPLETE, PARAMS, value, {"seconds": 1.25})


def failed(number=0, reason="it failed"):
    return Trial(number, FAILED, PARAMS, None, {"reason": reason})


def result(n=3, *, n_tied=2, wanted=3, low=0.7, **changes):
    trials = [trial(k, 0.9 - k / 100) for k in range(n)]
    ranking = [RankedTrial(t, low, low if low != low else 0.95, k < n_tied, k == 0) for k, t in enumerate(trials)]
    return StudyResult("study", "data", ranking, trials, wanted, **changes)


def printed(made: StudyResult, **options) -> str:
    to = console(**options)
    print_result(made, to)
    return text(to)
