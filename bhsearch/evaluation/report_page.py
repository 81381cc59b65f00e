"""The report of a study as one page: the result and how far to trust it first, then what to look at, then the rest."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from bhsearch.evaluation import charts, page, report_sections, standing
from bhsearch.evaluation.bootstrap import INTERVAL_NOTE
from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.evaluation.report_data import Measured
from bhsearch.evaluation.report_style import STYLE
from bhsearch.evaluation.selection import CORRECTED_NOTE
from bhsearch.states import FAILED

if TYPE_CHECKING:
    from bhsearch.evaluation.report_data import Report

SYNTHETIC = "Synthetic data: drawn by a program, so the numbers say nothing about tissue."
_INTERVALS = f"Intervals: 95 % {INTERVAL_NOTE}."
_INVALID = "These numbers are invalid as a measure of performance."


def report_page(report: Report) -> str:
    """One self-contained HTML page.

    Args:
        report: What to show.
    """
    alarms = [_INVALID, *report.invalid] if report.invalid else []
    begun = f"begun {report.made['begun']}" if "begun" in report.made else ""
    body = [
        page.heading(report.study, " · ".join(part for part in (report.data, begun, DISCLAIMER) if part)),
        page.alarm(alarms),
        page.notice([SYNTHETIC] if report.synthetic else []),
        _hero(report),
    ]
    if report.test is not None:
        body.append(report_sections.sealed(report, report.test))
    if report.best is not None:
        body += report_sections.best(report, report.best)
    body += [
        *report_sections.search(report),
        report_sections.all_trials(report),
    ]
    return page.document(f"{report.study}: report", "\n".join(body), STYLE)


def headline(report: Report) -> Measured:
    """The number that deserves the most trust: the sealed test, else the corrected score, else the best one."""
    if report.test is not None:
        return report.test.auc
    if report.corrected is not None:
        return Measured(report.corrected.score, report.corrected.low, report.corrected.high)
    best = report.ranked[0]
    return Measured(best.score or math.nan, best.low, best.high)


def estimates(report: Report) -> list[tuple[str, Measured, str, str]]:
    """The three numbers of a study: name, value with interval, kind (a class of CSS), and what is said of it."""
    best, found, nothing = report.ranked[0], report.corrected, Measured(math.nan)
    kinds = ["invalid", "invalid", ""] if report.invalid else ["", "", ""]
    kinds[2 if report.test is not None else 1 if found is not None else 0] += " strong"
    corrected, sealed = nothing, nothing
    said, of_the_test = f"not available: {report.uncorrected}", "not opened for this study"
    if found is not None:
        corrected, said = Measured(found.score, found.low, found.high), "most of the optimism of the search removed"
    if report.test is not None:
        sealed, of_the_test = report.test.auc, f"{report.test.opening.trial}, on cases that chose nothing"
    else:
        kinds[2] = "closed"
    return [
        (
            f"Best of {charts.plural(len(report.ranked), 'trial')}",
            Measured(best.score or math.nan, best.low, best.high),
            kinds[0],
            "optimistic: these scores chose it",
        ),
        ("Corrected for having searched", corrected, kinds[1], said),
        ("Sealed test", sealed, kinds[2], of_the_test),
    ]


def _hero(report: Report) -> str:
    if not report.ranked:
        reasons = [f"trial {row.number}: {row.reason or row.state.lower()}" for row in report.rows]
        sealed = page.paragraphs(_sealed_cases(report), kind="soft")
        return page.section("No trial has finished", page.bullets(reasons) if reasons else "", sealed)
    found = standing.standing(report)
    shown = headline(report)
    ends = f"95 % interval {shown.low:.2f} to {shown.high:.2f}" if math.isfinite(shown.low) else "no interval"
    kind = f" {found.kind}" if found.kind in (standing.INVALID, standing.FEW) else ""
    result = (
        f'<p class="badge {found.kind}">{escape(found.badge)}</p>'
        + page.paragraphs(_kicker(report), kind="kicker")
        + f'<p class="big">AUC {shown.value:.2f}</p>'
        + page.paragraphs(ends, kind="range")
        + page.paragraphs(_sealed_cases(report), kind="cases")
        + page.paragraphs(found.claim, kind="verdict")
    )
    left = f'<div class="hero-result{kind}">{result}{_estimates(report)}</div>'
    right = f"<div><h2>How far to trust it</h2>{_trust(report, found)}</div>"
    return f'<section class="card"><div class="hero">{left}{right}</div></section>'


def _kicker(report: Report) -> str:
    if report.test is not None:
        times = _times(len(report.openings))
        return f"On sealed cases, opened {times}: {report.test.opening.trial}"
    if standing.is_invalid(report):
        return "Score of the search"
    if report.corrected is not None:
        return "Score of the search, corrected for having searched"
    return "Best score of the search, not corrected"


def _sealed_cases(report: Report) -> str:
    sealed = report.sealed
    if not sealed.n_cases:
        return "No cases are sealed."
    by_class = f"{sealed.n_benign} benign, {sealed.n_malignant} malignant"
    return f"Sealed: {charts.plural(sealed.n_cases, 'case')} ({by_class}), {charts.plural(sealed.n_images, 'image')}"


def _estimates(report: Report) -> str:
    rows = [(name, found.value, found.low, found.high, kind, said) for name, found, kind, said in estimates(report)]
    key = page.paragraphs("Bar: 95 % interval over cases. Dotted line: guessing.", kind="small soft")
    return charts.interval_rows(rows, *report_sections.scale([value for row in rows for value in row[1:4]])) + key


def _trust(report: Report, found: standing.Standing) -> str:
    """What the numbers rest on: a few words to see, a sentence to read; warnings marked."""
    lines = []
    if found.reasons:
        lead = "What the gate said" if report.test is not None else "What the gate would say"
        if found.kind == standing.UNFINISHED:
            lead = "Why there is no decision"
        lines.append((lead, " ".join(found.reasons), found.kind != standing.PROMOTED))
    n_all, n_benign, n_malignant = report.n_cases
    searched = f"{n_benign} with benign and {n_malignant} with malignant images. {_INTERVALS}"
    lines.append((f"{charts.plural(n_all, 'case')} in the search", searched, False))
    tied = [row for row in report.ranked if row.tied]
    if len(tied) > 1:
        said = "They cannot be told from the best."
        cheapest = charts.cheapest_tied(report.ranked)
        if cheapest is not None:
            said += f" The cheapest is trial {cheapest.number} ({cheapest.milliseconds:.2g} ms an image)."
        lines.append((f"{len(tied)} of {len(report.ranked)} trials are tied", said, False))
    n_openings = len(report.openings)
    if n_openings == 0 and not report.invalid:
        said = f"{CORRECTED_NOTE} Registering a model opens it, once."
        lines.append(("The sealed test is untouched", said, False))
    elif n_openings > 1:
        said = "Only the first opening is unbiased; each further look makes these cases less of a test."
        lines.append((f"The sealed cases were opened {n_openings} times", said, True))
    elif n_openings and report.test is None:
        said = f"On {report.openings[0].when[:10]}, for the study {report.openings[0].study}."
        lines.append(("The sealed cases were opened before", said, True))
    failed = sum(row.state == FAILED for row in report.rows)
    if failed:
        lines.append(
            (
                f"{failed} of {charts.plural(len(report.rows), 'trial')} failed",
                "The list of trials gives the reasons.",
                True,
            )
        )
    lines += [("Mind", sentence, True) for sentence in report.warnings]
    items = (
        f'<li class="{"warn" if warns else "fact"}"><b>{escape(lead)}</b>{escape(said)}</li>'
        for lead, said, warns in lines
    )
    return f'<ul class="trust">{"".join(items)}</ul>'


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
