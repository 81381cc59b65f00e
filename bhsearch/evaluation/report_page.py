"""The report of a study as one page: the result and how far to trust it first, then what to look at, then the rest."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from bhsearch.evaluation import charts, page
from bhsearch.evaluation.bootstrap import INTERVAL_NOTE, group_draws
from bhsearch.evaluation.breakdown import UNNAMED, breakdown
from bhsearch.evaluation.curves import roc_band
from bhsearch.evaluation.metrics import calibration_bins, trial_metrics
from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.evaluation.report_style import STYLE
from bhsearch.evaluation.selection import CORRECTED_NOTE
from bhsearch.evaluation.thresholds import pooled_decisions
from bhsearch.states import FAILED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhsearch.evaluation.predictions import Predictions
    from bhsearch.evaluation.report_data import Report, TrialRow

SYNTHETIC = "Synthetic data: drawn by a program, so the numbers say nothing about tissue."
_INTERVALS = f"Intervals: 95 % {INTERVAL_NOTE}."
_INVALID = "These numbers are invalid as a measure of performance."
_HISTORY = "A dot is a trial, the line the best so far, a cross a failure; dotted: guessing."
_COSTS = "Blue cannot be told from the best. The first trial of a network pays for its features."
_PARALLEL = "A line is a trial, from its score down through its parameters: orange the best, bluer is better."
_FEW = 30  # trials
_N_BEST = 10
_N_DRAWS_BAND = 200
_METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "average_precision": "average precision",
    "recognition_rate": "recognition rate per case",
    "brier": "Brier score",
    "ece": "calibration error",
}


def report_page(report: Report) -> str:
    """One self-contained HTML page.

    Args:
        report: What to show.
    """
    alarms = [_INVALID, *report.invalid] if report.invalid else []
    body = [
        page.heading(report.study, f"{report.data} · {DISCLAIMER}"),
        page.alarm(alarms),
        page.notice([SYNTHETIC] if report.synthetic else []),
        _hero(report),
    ]
    if report.best is not None:
        body += _best(report, report.best)
    body += [*(_search(report) or [_space(report)]), _made_with(report), _all_trials(report)]
    return page.document(f"{report.study}: report", "\n".join(body), STYLE)


# -- the first screen --------------------------------------------------------------------------------------------------


def _hero(report: Report) -> str:
    ranked = report.ranked
    if not ranked:
        reasons = [f"trial {row.number}: {row.reason or row.state}" for row in report.rows]
        return page.section("No trial has finished", page.bullets(reasons))
    kind = " invalid" if _is_invalid(report) else ""
    result = (
        page.paragraphs(_kicker(report), kind="kicker")
        + _big(report)
        + page.paragraphs(_verdict(report), kind="verdict")
    )
    left = f'<div class="hero-result{kind}">{result}{_estimates(report)}</div>'
    right = f"<div><h2>How far to trust it</h2>{_trust(report)}</div>"
    return f'<section class="card"><div class="hero">{left}{right}</div></section>'


def _headline(report: Report) -> tuple[float, float, float]:
    """The number that deserves the most trust: the sealed test, else the corrected score, else the best one."""
    if report.test is not None:
        return report.test.value, report.test.low, report.test.high
    if report.corrected is not None:
        return report.corrected.score, report.corrected.low, report.corrected.high
    best = report.ranked[0]
    return best.score or math.nan, best.low, best.high


def _is_invalid(report: Report) -> bool:
    """Whether the headline is: a test sealed by case is sound whatever the folds did."""
    return bool(report.invalid) and (report.test is None or not report.has_cases)


def _kicker(report: Report) -> str:
    if _is_invalid(report):
        return "Not a result"
    if report.test is not None:
        times = "once" if report.test.openings == 1 else f"{report.test.openings} times"
        return f"On sealed cases, opened {times}: {report.test.trial}"
    if report.corrected is not None:
        return "What to expect on new cases like these"
    return "Best score of the search, not corrected"


def _big(report: Report) -> str:
    value, low, high = _headline(report)
    ends = f"95 % interval {low:.2f} to {high:.2f}" if math.isfinite(low) else "no interval"
    return f'<p class="big">AUC {value:.2f}</p>{page.paragraphs(ends, kind="range")}'


def _verdict(report: Report) -> str:
    _, low, high = _headline(report)
    if _is_invalid(report):
        return "Expect less on new cases; nothing here says how much less."
    if not math.isfinite(low):
        return "Without an interval nothing can be said of how far it could be off."
    if low <= 0.5 <= high:
        return "It could be guessing: the 95 % interval reaches down to 0.5."
    if high < 0.5:
        return "Worse than guessing: the 95 % interval lies below 0.5."
    return "Better than guessing: the 95 % interval lies above 0.5."


def _estimates(report: Report) -> str:
    best, found = report.ranked[0], report.corrected
    none = math.nan
    kinds = ["invalid", "invalid", ""] if report.invalid else ["", "", ""]
    kinds[2 if report.test is not None else 1 if found is not None else 0] += " strong"
    corrected = (
        ("Corrected for having searched", found.score, found.low, found.high, kinds[1], "most of the optimism removed")
        if found is not None
        else ("Corrected for having searched", none, none, none, kinds[1], f"not at hand: {report.uncorrected}")
    )
    sealed = (
        ("Sealed test", report.test.value, report.test.low, report.test.high, kinds[2], "the unbiased number")
        if report.test is not None
        else ("Sealed test", none, none, none, "closed", "still sealed")
    )
    rows = [
        (
            f"Best of {len(report.ranked)} trials",
            best.score or none,
            best.low,
            best.high,
            kinds[0],
            "optimistic: these scores chose it",
        ),
        corrected,
        sealed,
    ]
    key = page.paragraphs("Bar: 95 % interval. Dotted: guessing.", kind="small soft")
    return charts.interval_rows(rows, *_scale([value for row in rows for value in row[1:4]])) + key


def _trust(report: Report) -> str:
    """What the numbers rest on: a few words to see, a sentence to read; warnings marked."""
    n_all, n_benign, n_malignant = report.n_cases
    tied = [row for row in report.ranked if row.tied]
    lines = [(f"{n_all} cases", f"{n_benign} with benign and {n_malignant} with malignant images. {_INTERVALS}", False)]
    if len(tied) > 1:
        cheapest = min(tied, key=lambda row: row.seconds)
        said = f"They cannot be told from the best. The cheapest is trial {cheapest.number} ({cheapest.seconds:.1f} s)."
        lines.append((f"{len(tied)} of {len(report.ranked)} trials are tied", said, False))
    if report.test is None and not report.invalid:
        lines.append(("The sealed test is untouched", f"{CORRECTED_NOTE} Registering a model opens it, once.", False))
    elif report.test is not None and report.test.openings > 1:
        said = "Each look makes them less of a test."
        lines.append((f"The sealed cases were opened {report.test.openings} times", said, True))
    failed = sum(row.state == FAILED for row in report.rows)
    if failed:
        lines.append((f"{failed} of {len(report.rows)} trials failed", "The reasons stand in the table below.", True))
    lines += [("Mind", sentence, True) for sentence in report.warnings]
    items = (
        f'<li class="{"warn" if warns else "fact"}"><b>{escape(lead)}</b>{escape(said)}</li>'
        for lead, said, warns in lines
    )
    return f'<ul class="trust">{"".join(items)}</ul>'


# -- the best trial ----------------------------------------------------------------------------------------------------


def _best(report: Report, best: Predictions) -> list[str]:
    top, decisions = report.ranked[0], pooled_decisions(best)
    draws = group_draws(best.group, best.stratum, _N_DRAWS_BAND)
    metrics = trial_metrics(best)
    bins = calibration_bins(best)
    name, auc = f"trial {top.number}", f"AUC {metrics['auc']:.3f}"
    roc = page.section(
        f"ROC curve of {name}",
        charts.roc_chart(roc_band(best, draws), auc, f"ROC curve of {name}, {auc}"),
        lead="Out of fold, every case counting the same. The band: 95 % over cases.",
    )
    calibration = page.section(
        "Calibration",
        charts.calibration_chart(bins, f"Calibration of {name}, error {metrics['ece']:.3f}"),
        lead=f"On the dashed line a probability can be taken at its word. Mean distance {metrics['ece']:.2f}.",
    )
    shown = []
    for column, title in (("subtype", "Subtypes"), ("magnification", "Magnifications")):
        parts = breakdown(best, decisions, column)
        if [part.name for part in parts] != [UNNAMED]:
            lead = "Share of images called right. A dot is a case; the bar is their mean."
            shown.append(page.section(title, charts.part_rows(parts), lead=lead))
    tested = report.test.others if report.test is not None else {}
    numbers = [
        (words, f"{metrics[key]:.3f}", *([f"{tested[key]:.3f}" if key in tested else ""] if tested else []))
        for key, words in _METRICS.items()
    ]
    head = ("metric", "out of fold", *(["sealed test"] if tested else []))
    shown.append(
        page.section(
            "Other numbers",
            page.table(head, numbers, len(head) - 1, "metrics"),
            lead=f"Of {name}. Out of fold, each fold's threshold comes from the other folds.",
        )
    )
    first, *others = shown
    return [page.columns(roc, calibration), _images(report, name), page.columns(first, page.stack(*others))]


def _images(report: Report, name: str) -> str:
    title = "What it gets wrong, and right"
    if not report.images:
        kept = page.image(report.kept_images, "right and wrong images") if report.kept_images else ""
        lead = "The images are not where they were, or not the same any more."
        return page.section(title, kept, lead=f"{lead} This was drawn when the trial ended." if kept else lead)
    groups = []
    for right, words in ((False, "Worst wrong"), (True, "Clearest right")):
        figures = "".join(
            page.figure(page.image(item.picture, item.caption), item.caption, "right" if right else "wrong")
            for item in report.images
            if item.right == right
        )
        if figures:
            groups.append(f'<h3>{words}</h3><div class="pictures tiles">{figures}</div>')
    lead = f"Of {name}, out of fold, one image a case where possible. P: predicted probability of malignant."
    return page.section(title, *groups, lead=lead)


# -- the search --------------------------------------------------------------------------------------------------------


def _search(report: Report) -> list[str]:
    ranked = report.ranked
    if not ranked:
        return []
    cards = [page.section("History", charts.history_chart(report.rows, _heard(report)), lead=_HISTORY)]
    if any(row.seconds > 0 for row in ranked):
        alt = "score against seconds of every trial"
        cards.append(page.section("What a score costs", charts.cost_chart(report.rows, alt), lead=_COSTS))
    varied = [name for name in ranked[0].params if len({str(row.params.get(name)) for row in ranked}) > 1]
    order = sorted(varied, key=lambda name: -report.importances.get(name, 0.0))
    below = [page.stack(_mattered(report), _space(report))]
    if order:
        alt = f"{len(ranked)} trials through {len(order)} parameters"
        lines = charts.parallel_chart(report.rows, order, report.log, alt)
        below.insert(0, page.section("All trials at once", lines, lead=_PARALLEL))
    return [page.columns(_best_trials(ranked), page.stack(*cards)), page.columns(*below)]


def _heard(report: Report) -> str:
    return f"score of {len(report.rows)} trials; the best is {report.ranked[0].score:.3f}"


def _best_trials(ranked: Sequence[TrialRow]) -> str:
    rows = [
        (f"trial {row.number}", row.score or math.nan, row.low, row.high, "tied" if row.tied else "", _in_short(row))
        for row in ranked[:_N_BEST]
    ]
    key = (
        '<p class="key"><span style="--c:var(--blue)">cannot be told from the best</span>'
        '<span style="--c:#5d7486">worse than the best</span></p>'
    )
    scale = _scale([value for row in rows for value in row[1:4]])
    return page.section(
        "Best trials", key, charts.interval_rows(rows, *scale), lead="Score, 95 % interval; dotted: guessing."
    )


def _mattered(report: Report) -> str:
    if not report.importances:
        return page.section("What mattered", lead="Known from ten complete trials on.")
    few = " From so few trials: a hint at most." if len(report.ranked) < _FEW else ""
    lead = f"Share of the score's variation that a parameter explains (fANOVA).{few}"
    return page.section("What mattered", charts.bar_rows(report.importances), lead=lead)


def _space(report: Report) -> str:
    return page.section(
        "What was searched", page.table(("parameter", "values", "what it is"), report.space, caption="space")
    )


def _made_with(report: Report) -> str:
    return page.columns(
        page.section("Data and split", page.facts(report.facts)),
        page.stack(
            page.section("Leakage audit", page.bullets(report.audit)),
            page.section("Made with", page.facts(report.versions)),
        ),
    )


def _all_trials(report: Report) -> str:
    items = []
    for row in report.rows:
        said = [f"AUC {row.score:.4f}" if row.score is not None else row.state.lower()]
        if math.isfinite(row.low):
            said.append(f"{row.low:.3f} to {row.high:.3f}")
        said += ["tied"] if row.tied else []
        said += [f"{row.seconds:.1f} s"] if row.seconds else []
        said += [row.reason] if row.reason else []
        point = ", ".join(f"{name} {_short(value)}" for name, value in row.params.items())
        kind = "" if row.score is not None else ' class="red"'
        items.append(f"<li><b{kind}>trial {row.number}: {escape(', '.join(said))}</b><br>{escape(point)}</li>")
    shown = f'<details><summary>Show all {len(items)}</summary><ul class="trials">{"".join(items)}</ul></details>'
    return page.section("Every trial", shown)


def _in_short(row: TrialRow) -> str:
    kept = [row.params.get(name) for name in ("backbone", "policy")]
    seconds = f"{row.seconds:.1f} s" if row.seconds else ""
    return ", ".join(str(value) for value in (*kept, seconds) if value not in (None, ""))


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _scale(values: Sequence[float]) -> tuple[float, float]:
    """Ends of a scale that holds all numbers and guessing, in steps of a tenth."""
    finite = [value for value in values if math.isfinite(value)]
    low = math.floor(10 * min([*finite, 0.5]) - 0.2) / 10
    high = math.ceil(10 * max([*finite, 0.6]) + 0.2) / 10
    return max(low, 0.0), min(high, 1.0)
