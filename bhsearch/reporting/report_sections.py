"""The sections of a report below its first screen: sealed test, proposed trial, search, and provenance."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from bhsearch.data.layouts.breakhis import spelt_out
from bhsearch.evaluation.held_out_test import AT_FIXED_RATES, CALIBRATED, UNCALIBRATED, metric_title
from bhsearch.evaluation.metrics import METRICS
from bhsearch.evaluation.mixed_score import score_axis
from bhsearch.evaluation.subgroups import UNNAMED, subgroup_results
from bhsearch.evaluation.supplementary.supplements import CALIBRATION_SLOPE_NOTE, TITLES, reason_not_applicable
from bhsearch.evaluation.thresholds import cross_fitted_labels
from bhsearch.reporting import curve_cards, html, report_numbers, svg_charts
from bhsearch.reporting.figures import description
from bhsearch.reporting.gate_status import few_cases
from bhsearch.reporting.report_data import Measured
from bhsearch.reporting.svg.frame import inline_chart
from bhsearch.text import capitalised, plural, value_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bhsearch.evaluation.predictions import Predictions
    from bhsearch.evaluation.subgroups import Subgroup
    from bhsearch.evaluation.thresholds import HardLabels
    from bhsearch.reporting.report_data import StudyReport, TestSummary, TrialRow
    from bhsearch.tasks.base import Task

N_BEST = 10
_FEW = 30  # trials
_HISTORY = "A dot is a trial, the line the best score so far, a cross a failed trial; dotted: guessing."
_COSTS = (
    "Time of the deployed network for one image, measured once for each backbone on the machine of the study; a trial "
    "with test-time augmentation asks it once for each view. Blue: cannot be told from the best. Orange: proposed. "
    "Dotted: guessing."
)
_PARALLEL = "A line is a trial, from its score down through its parameters: orange is the best, bluer is better."
_VERDICTS = {"passed": "passed", "refused": "refused", "": "no decision"}


# -- the sealed test ---------------------------------------------------------------------------------------------------


def sealed(report: StudyReport, test: TestSummary) -> str:
    """Return the cards of the sealed test: ROC curve, calibration, metrics, and all accesses, as HTML."""
    name = test.opening.trial
    cards = []
    if test.predictions is not None:
        cards += [
            curve_cards.roc(
                test.predictions, test.auc, f"Sealed test: ROC curve of {name}", "The deployed model on sealed cases."
            ),
            curve_cards.calibration(
                test.predictions,
                test.others.get("ece", Measured(math.nan)),
                "Sealed test: calibration",
                "Of the deployed model, with the calibration that was fixed before the opening.",
            ),
            curve_cards.decision_curve(test.predictions, "Sealed test: decision curve"),
            curve_cards.distributions(
                test.predictions, report.task.class_names, test.threshold, "Sealed test: predicted probabilities"
            ),
        ]
    found = {"auc": test.auc, **test.others}
    if test.predictions is not None:
        found = report_numbers.widened(found, test.predictions)
    rows = [(metric.title, *svg_charts.split_ends(found[key], 3)) for key, metric in METRICS.items() if key in found]
    rows += [
        (metric_title(f"{key}{UNCALIBRATED}"), *svg_charts.split_ends(found[f"{key}{UNCALIBRATED}"], 3))
        for key in CALIBRATED
        if f"{key}{UNCALIBRATED}" in found
    ]
    rows += [(metric_title(key), *svg_charts.split_ends(found[key], 3)) for key in AT_FIXED_RATES if key in found]
    rows += supplement_rows(found, test.predictions)
    at = f" Threshold {test.threshold:.3f}, fixed before the opening." if math.isfinite(test.threshold) else ""
    numbers = html.section(
        "Sealed test: numbers",
        html.table(("metric", "value", "95 % interval"), rows, 2, "metrics of the sealed test"),
        lead=f"{few_cases(report)} Of {name}, every case counting the same.{at} {CALIBRATION_SLOPE_NOTE}".strip(),
    )
    opened = html.section(
        "Openings of the sealed cases",
        html.table(
            ("when (UTC)", "study", "tested", "AUC (95 % interval)", "gate"),
            [
                (
                    opening.when[:16].replace("T", " "),
                    opening.study,
                    opening.trial,
                    svg_charts.with_ends(opening.auc, 3) if opening.auc is not None else "no result",
                    _VERDICTS.get(opening.verdict, opening.verdict) + (", forced" if opening.forced else ""),
                )
                for opening in report.openings
            ],
            caption="openings",
        ),
        lead="Of all studies in this MLflow store. Only the first opening is unbiased.",
    )
    shown = html.columns(*cards[:2]) + html.columns(*cards[2:]) if cards else ""
    return shown + html.columns(numbers, opened)


def supplement_rows(found: Mapping[str, Measured], predictions: Predictions | None) -> list[tuple[str, str, str]]:
    """Return the table rows of the supplementary statistics; those without a value have the reason instead.

    Args:
        found: Statistics by name; other names are ignored.
        predictions: Predictions that the statistics were computed from; None leaves out statistics without a value.
    """
    rows = []
    for name, title in TITLES.items():
        if name in found:
            rows.append((title, *svg_charts.split_ends(found[name], 3)))
        elif predictions is not None:
            rows.append((title, "—", f"not applicable: {reason_not_applicable(name, predictions)}"))
    return rows


# -- the proposed trial ------------------------------------------------------------------------------------------------


def proposed(report: StudyReport, predictions: Predictions) -> list[str]:
    """Return the HTML cards of the proposed trial: configuration, curves, example images, metrics and subgroups."""
    top, decisions = report.proposed, cross_fitted_labels(predictions, report.task)
    found = report_numbers.measured(predictions, decisions, report.task)
    name = f"trial {top.number}"
    cards = [
        curve_cards.roc(predictions, found["auc"], f"ROC curve of {name}", "Out of fold, mean over folds."),
        curve_cards.calibration(predictions, found["ece"], f"Calibration of {name}", "Out of fold."),
    ]
    numbers = html.section(
        "Numbers of the search",
        html.table(
            ("metric", "value", "95 % interval"),
            [
                *(
                    (metric.title, *svg_charts.split_ends(found[key], 3))
                    for key, metric in METRICS.items()
                    if key in found
                ),
                *supplement_rows(report_numbers.supplementary(predictions), predictions),
            ],
            2,
            "metrics of the proposed trial",
        ),
        lead=f"Of {name}, out of fold: each fold's threshold comes from the other folds. "
        f"Optimistic, since these scores chose the trial. {CALIBRATION_SLOPE_NOTE}",
    )
    parts = {}
    for column, title in (("subtype", "Subtypes"), ("magnification", "Magnifications")):
        rows = parts_of(predictions, decisions, column, report.task)
        if [part.name for _, part, _, _ in rows] != [UNNAMED]:
            lead = "Share of images called right, out of fold. Dot: a case; bar: mean over cases; line: 95 % interval."
            parts[column] = html.section(title, svg_charts.part_rows(rows), lead=lead)
    title = f"Learning curve over cases of {name}"
    curve = curve_cards.learning_curve(report.learning_curve, report.no_learning_curve, title)
    left, right = ([parts["subtype"], curve], [numbers]) if "subtype" in parts else ([numbers], [curve])
    right += [parts["magnification"]] if "magnification" in parts else []
    return [
        configuration(report, top),
        html.columns(*cards),
        _images(report, name),
        html.columns(html.stack(*left), html.stack(*right)),
    ]


def configuration(report: StudyReport, top: TrialRow) -> str:
    """Return an HTML card with the parameters of the proposed trial and their search ranges."""
    searched = {name: (values, words) for name, values, words in report.space}
    rows = [(name, value_text(value, 3), *searched.get(name, ("", ""))) for name, value in top.params.items()]
    score = Measured(top.score or math.nan, top.low, top.high)
    cost = [f"{number(top.milliseconds)} ms an image"] if math.isfinite(top.milliseconds) else []
    cost += [f"{number(top.megabytes)} MB of weights"] if math.isfinite(top.megabytes) else []
    unchanged = f"AUC of unchanged images {top.auc:.3f}; " if report.shift_weight else ""
    said = (
        f"{capitalised(report.score_title)} {svg_charts.with_ends(score, 3)} out of fold; "
        f"{unchanged}deployed: {', '.join(cost) or 'cost not measured'}."
    )
    return html.section(
        f"Configuration of the proposed trial, trial {top.number}",
        html.table(
            ("parameter", "value", "searched", "what it is"), rows, caption="configuration of the proposed trial"
        ),
        lead=said,
    )


def parts_of(
    predictions: Predictions, decisions: HardLabels, column: str, task: Task
) -> list[tuple[str, Subgroup, Measured, Measured | None]]:
    """Return the results by the values of one column, with intervals.

    Args:
        predictions: Predictions.
        decisions: Predicted labels of the same images.
        column: `subtype` or `magnification`.
        task: Task that names the classes.

    Returns:
        Name, subgroup, accuracy and AUC of each subgroup; AUC None if no fold has both classes. Subtypes have their
        full names.
    """
    values = getattr(predictions, column)
    rows = []
    for part in subgroup_results(predictions, decisions, column, task):
        inside = values == ("" if part.name == UNNAMED else part.name)
        auc = report_numbers.auc_of(predictions.select(inside)) if part.auc is not None else None
        name = spelt_out(part.name) if column == "subtype" else part.name
        rows.append((name, part, report_numbers.share_of(part.accuracy, part.n_cases), auc))
    return rows


def _images(report: StudyReport, name: str) -> str:
    title = "What it gets wrong, and right"
    if not report.images:
        kept = html.image(report.kept_images, "right and wrong images") if report.kept_images else ""
        lead = "The images are not where they were, or have changed since."
        if not report.has_images:
            lead = "There are no images to show: the study is of vectors, which an encoder computed elsewhere."
        return html.section(title, kept, lead=f"{lead} This picture was drawn when the trial ended." if kept else lead)
    groups = []
    for right, words in ((False, "Worst wrong"), (True, "Clearest right")):
        figures = "".join(
            html.figure(html.image(item.file, item.caption), item.caption, "right" if right else "wrong")
            for item in report.images
            if item.correct == right
        )
        if figures:
            groups.append(f'<h3>{words}</h3><div class="pictures tiles">{figures}</div>')
    lead = f"Of {name}, out of fold, one image a case where possible. P: predicted probability of malignant."
    return html.section(title, *groups, lead=lead)


# -- the search --------------------------------------------------------------------------------------------------------


def search(report: StudyReport) -> list[str]:
    """Return the HTML cards of the search and its provenance."""
    ranked = report.ranked
    if not ranked:
        return [_space(report), html.columns(*_made_with(report))]
    axis = score_axis(report.shift_weight)
    cards = [
        html.section(
            "History", inline_chart(description.history(report.rows, axis), _history_alt(report)), lead=_HISTORY
        )
    ]
    if any(row.milliseconds > 0 for row in ranked):
        alt = "score against milliseconds an image of every trial"
        chart = inline_chart(description.cost(report.rows, axis), alt)
        cards.append(html.section("Score and cost", chart, _by_backbone(report), lead=_COSTS))
    order = varied(report)
    beside = html.stack(_mattered(report), *_made_with(report))
    below = [beside]
    if order:
        alt = f"{plural(len(ranked), 'trial')} through {plural(len(order), 'parameter')}"
        lines = svg_charts.parallel_chart(report.rows, order, report.log, alt, report.score_title)
        below.insert(0, html.section("All trials at once", lines, lead=_PARALLEL))
    return [html.columns(_best_trials(ranked), html.stack(*cards)), html.columns(*below)]


def varied(report: StudyReport) -> list[str]:
    """Return the names of parameters that differ between complete trials, most important first."""
    ranked = report.ranked
    names = [name for name in ranked[0].params if len({str(row.params.get(name)) for row in ranked}) > 1]
    return sorted(names, key=lambda name: -report.important.get(name, (0.0, 0.0))[0])


def _history_alt(report: StudyReport) -> str:
    return f"score of {plural(len(report.rows), 'trial')}; the best is {report.ranked[0].score:.3f}"


def _best_trials(ranked: Sequence[TrialRow]) -> str:
    rows = [
        (f"trial {row.number}", row.score or math.nan, row.low, row.high, "tied" if row.tied else "", _in_short(row))
        for row in ranked[:N_BEST]
    ]
    key = (
        '<p class="key"><span style="--c:var(--blue)">cannot be told from the best</span>'
        '<span style="--c:#5d7486">worse than the best</span></p>'
    )
    ends = scale([value for row in rows for value in row[1:4]])
    return html.section(
        "Best trials",
        key,
        svg_charts.interval_rows(rows, *ends),
        lead="Score, 95 % interval over cases; dotted: guessing.",
    )


def _by_backbone(report: StudyReport) -> str:
    """Return an HTML table with the best trial of each backbone, its score and its cost."""
    tops: dict[str, TrialRow] = {}
    for row in report.ranked:
        tops.setdefault(str(row.params.get("backbone", "network")), row)
    rows = [
        (
            name,
            f"trial {row.number}",
            svg_charts.with_ends(Measured(row.score or math.nan, row.low, row.high)),
            number(row.milliseconds),
            number(row.megabytes),
        )
        for name, row in tops.items()
    ]
    head = ("backbone", "its best trial", f"{report.score_title} (95 % interval)", "ms an image", "MB")
    return html.table(head, rows, 2, "cost by backbone")


def _mattered(report: StudyReport) -> str:
    title, important = "What mattered", report.important
    if not report.importances:
        return html.section(title, lead="Known once ten trials with different scores are complete.")
    if not report.spread:
        return html.section(title, lead="The spread of the importances is not known, so none is shown.")
    n = plural(len(report.ranked), "complete trial")
    others = [name for name in report.importances if name not in important]
    rest = f"Not larger than its spread, so not shown: {', '.join(others)}." if others else ""
    if not important:
        return html.section(
            title,
            html.paragraphs(rest, kind="small soft"),
            lead=f"No parameter stands out: after {n}, every importance is within its own spread.",
        )
    few = " From so few trials it is a hint at most." if len(report.ranked) < _FEW else ""
    lead = (
        f"Share of the score's variation that a parameter explains (fANOVA), from {n}; ± and line: 95 % over resampled "
        f"trials.{few}"
    )
    return html.section(
        title, svg_charts.bar_rows(important), html.paragraphs(rest, kind="small soft") * bool(rest), lead=lead
    )


def _space(report: StudyReport) -> str:
    return html.section(
        "What was searched", html.table(("parameter", "values", "what it is"), report.space, caption="space")
    )


def _made_with(report: StudyReport) -> list[str]:
    """Return HTML cards with data, split, leakage audit, time, command and machine of the study."""
    return [
        html.section("Data and split", html.facts(report.facts)),
        html.section("Leakage audit", html.bullets(report.audit)),
        html.section("Made with", html.facts(_made(report))),
    ]


def _made(report: StudyReport) -> dict[str, str]:
    made = dict(report.made)
    if "command" in made:  # one option per line, with line continuations for a shell
        made["command"] = made["command"].replace(" --", " \\\n--")
    return {**made, "versions": ", ".join(f"{name} {version}" for name, version in report.versions.items())}


def all_trials(report: StudyReport) -> str:
    """Return an HTML card with every trial and its parameters, initially expanded and always printed."""
    items = []
    for row in report.rows:
        said = [f"{report.score_title} {row.score:.4f}" if row.score is not None else row.state.lower()]
        if math.isfinite(row.low):
            said.append(f"{row.low:.3f} to {row.high:.3f}")
        said += [f"AUC {row.auc:.4f}"] if report.shift_weight and row.score is not None else []
        said += [*(["tied"] if row.tied else []), *(["proposed"] if row.proposed else [])]
        said += [f"{number(row.milliseconds)} ms an image"] if math.isfinite(row.milliseconds) else []
        said += [f"{number(row.megabytes)} MB"] if math.isfinite(row.megabytes) else []
        said += [row.reason] if row.reason else []
        point = ", ".join(f"{name} {value_text(value, 3)}" for name, value in row.params.items())
        kind = "" if row.score is not None else ' class="red"'
        items.append(f"<li><b{kind}>trial {row.number}: {escape(', '.join(said))}</b><br>{escape(point)}</li>")
    listed = f'<ul class="trials">{"".join(items)}</ul>'
    shown = f"<details open><summary>{plural(len(items), 'trial')}</summary>{listed}</details>"
    beside = ", AUC of unchanged images" if report.shift_weight else ""
    lead = f"{capitalised(report.score_title)} and its 95 % interval over cases{beside}, cost of the deployed model."
    return html.section("Every trial", shown, lead=lead)


def _in_short(row: TrialRow) -> str:
    kept = ["proposed" if row.proposed else None, *(row.params.get(name) for name in ("backbone", "policy"))]
    cost = f"{number(row.milliseconds)} ms an image" if math.isfinite(row.milliseconds) else ""
    return ", ".join(str(value) for value in (*kept, cost) if value not in (None, ""))


def number(value: float) -> str:
    """Return a cost as text with two digits; a dash if the cost is unknown."""
    if not math.isfinite(value):
        return "—"
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def scale(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an AUC scale, multiples of 0.1, that contains all finite values and 0.5."""
    finite = [value for value in values if math.isfinite(value)]
    low = math.floor(10 * min([*finite, 0.5]) - 0.2) / 10
    high = math.ceil(10 * max([*finite, 0.6]) + 0.2) / 10
    return max(low, 0.0), min(high, 1.0)
