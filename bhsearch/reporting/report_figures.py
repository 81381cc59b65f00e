"""Figures of a report for use in a paper: SVG and PDF at column width, without titles, with separate captions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from bhsearch.evaluation.bootstrap import INTERVAL_NOTE, group_draws
from bhsearch.evaluation.curves import roc_band
from bhsearch.evaluation.mixed_score import score_axis
from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.evaluation.subgroups import UNNAMED
from bhsearch.evaluation.supplementary import decision_curve as decision_curves
from bhsearch.evaluation.supplementary.learning_curve import LEARNING_CURVE_NOTE
from bhsearch.evaluation.supplementary.probability_histogram import probability_histogram
from bhsearch.evaluation.thresholds import cross_fitted_labels
from bhsearch.reporting import curve_cards, report_numbers, report_sections, study_report, svg_charts
from bhsearch.reporting.figures import description, drawing, palette, study, style
from bhsearch.reporting.figures.learning_curve import learning_curve as describe_learning_curve
from bhsearch.reporting.gate_status import counted, gate_status
from bhsearch.reporting.report_data import Measured
from bhsearch.states import FAILED
from bhsearch.text import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bhsearch.evaluation.predictions import Predictions
    from bhsearch.evaluation.subgroups import Subgroup
    from bhsearch.evaluation.supplementary.learning_curve import LearningCurve
    from bhsearch.reporting.figures.marks import Description
    from bhsearch.reporting.report_data import StudyReport, TrialRow

COLUMN, ROW = 3.5, 0.2  # inches: width of a journal column, and height of a row
_HEIGHT = 2.3  # inches, for figures that are not square
_CAPTIONS = "captions.md"
_BOX = (0.62, 0.48, 0.12, 0.08)  # inches: margins left, bottom, right, top
# Text is not converted to paths, so that journals can change the font and readers can search the text.
_RC: Any = {  # Any, because Matplotlib types the keys as literals
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.linewidth": 0.6,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "bhsearch",
}
_INTERVALS = f"95 % intervals {INTERVAL_NOTE}."


@dataclass(frozen=True, eq=False)
class Drawn:
    """A figure and its caption with the sample size."""

    figure: Figure
    caption: str


def write_figures(report: StudyReport, folder: Path) -> list[str]:
    """Write every figure of a report as SVG and PDF, and all captions as one Markdown file.

    Args:
        report: Data of the report.
        folder: Output folder; created if missing. Existing files of the same names are replaced.

    Returns:
        File names of the figures, without suffix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# Figures of {report.study}", "", DISCLAIMER, ""]
    with rc_context(_RC):
        drawn = drawn_figures(report)
        for name, item in drawn.items():
            # Without dates, the same report gives identical files.
            for kind, date in (("svg", "Date"), ("pdf", "CreationDate")):
                around = "tight" if item.figure.get_figwidth() > COLUMN else None  # multi-panel figures vary in width
                item.figure.savefig(
                    folder / f"{name}.{kind}", format=kind, metadata={date: None, "Title": name}, bbox_inches=around
                )
            lines += [f"**{name}.** {item.caption}", ""]
    (folder / _CAPTIONS).write_text("\n".join(lines), encoding="utf-8")
    return list(drawn)


def drawn_figures(report: StudyReport) -> dict[str, Drawn]:
    """Return the figures of a report by name; figures without data are left out."""
    if not report.ranked:
        return {}
    found = {"estimates": _estimates(report), "history": _history(report), "best_trials": _best_trials(report)}
    if any(row.milliseconds > 0 for row in report.ranked):
        found["cost"] = _cost(report)
    if report.important:
        found["importances"] = _importances(report)
    varied = report_sections.varied(report)
    if varied:
        found["parameters"] = _parameters(report, varied)
    if report.proposed_predictions is not None:
        found |= _of_proposed(report, report.proposed_predictions)
    if report.learning_curve is not None:
        found["learning_curve"] = _learning_curve(report, report.learning_curve)
    test = report.test
    if test is not None and test.predictions is not None:
        what = f"{test.opening.trial} of {report.study} on the sealed cases"
        found["sealed_roc"] = _roc(test.predictions, test.auc, what)
        error = test.others.get("ece", Measured(math.nan))
        found["sealed_calibration"] = _calibration(test.predictions, error, what)
        found["sealed_decision_curve"] = _decision_curve(test.predictions, what)
        found["sealed_probabilities"] = _probabilities(test.predictions, report.task.class_names, test.threshold, what)
    if report.synthetic:
        for item in found.values():
            _mark(item.figure)
        found = {name: Drawn(item.figure, f"{item.caption} {study_report.SYNTHETIC}") for name, item in found.items()}
    return found


def _of_proposed(report: StudyReport, predictions: Predictions) -> dict[str, Drawn]:
    top, decisions = report.proposed, cross_fitted_labels(predictions, report.task)
    numbers = report_numbers.measured(predictions, decisions, report.task)
    what = f"trial {top.number} of {report.study}, selected from {plural(len(report.ranked), 'trial')}, out of fold"
    curve, calibration = (_roc(predictions, numbers["auc"], what), _calibration(predictions, numbers["ece"], what))
    found = {"roc": curve, "calibration": calibration}
    for column, name in (("subtype", "subtypes"), ("magnification", "magnifications")):
        rows = report_sections.parts_of(predictions, decisions, column, report.task)
        if [part.name for _, part, _, _ in rows] != [UNNAMED]:
            found[name] = _parts(rows, what)
    return found


# -- one figure each ---------------------------------------------------------------------------------------------------


def _estimates(report: StudyReport) -> Drawn:
    rows = [
        (name, found, palette.BLUE if "strong" in kind else palette.GREY)
        for name, found, kind, _ in study_report.estimates(report)
        if math.isfinite(found.value)
    ]
    mixed = report.shift_weight > 0
    figure = _forest(rows, "mixed score or ROC AUC" if mixed else "ROC AUC")
    said = gate_status(report)
    sealed = report.sealed
    return Drawn(
        figure,
        f"{'Mixed score and AUC' if mixed else 'AUC'} of {report.study} with {_INTERVALS} Sealed: "
        f"{counted(sealed.n_benign, sealed.n_malignant)}. {said.badge}. {said.claim}",
    )


def _best_trials(report: StudyReport) -> Drawn:
    rows = [
        (f"trial {row.number}", Measured(row.score or math.nan, row.low, row.high), _colour(row))
        for row in report.ranked[: report_sections.N_BEST]
    ]
    figure = _forest(rows, score_axis(report.shift_weight))
    return Drawn(
        figure,
        f"The best trials of {report.study}, {_INTERVALS} Blue cannot be told from the best, grey is below it. "
        "Dotted: guessing.",
    )


def _forest(rows: Sequence[tuple[str, Measured, str]], name: str) -> Figure:
    """Draw one row per value, with its interval, and a vertical line at 0.5, the AUC of guessing.

    Args:
        rows: Name, value with interval, and colour.
        name: Label of the horizontal axis.
    """
    figure = Figure(figsize=(COLUMN, 0.62 + ROW * 1.35 * len(rows)))
    longest = max(len(words) for words, _, _ in rows)
    axes = style.place_axes(figure, 0.2 + 0.06 * longest, 0.46, 0.12, 0.08)
    axes.axvline(0.5, color=palette.INK, linewidth=0.8, linestyle=":")
    for place, (_, found, colour) in enumerate(rows):
        axes.plot(found.value, place, "o", color=colour, markersize=4.5)
        if math.isfinite(found.low):
            axes.hlines(place, found.low, found.high, color=colour, linewidth=1.4)
    axes.set_yticks(range(len(rows)), [words for words, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    ends = report_sections.scale([end for _, found, _ in rows for end in (found.value, found.low, found.high)])
    axes.set_xlim(*ends)
    _named(axes, name, "")
    return figure


def _history(report: StudyReport) -> Drawn:
    figure = to_matplotlib(description.history(report.rows, score_axis(report.shift_weight)))
    n_complete = sum(row.score is not None for row in report.rows)
    crosses = " Crosses: failed trials." if any(row.state == FAILED for row in report.rows) else ""
    return Drawn(
        figure,
        f"Score of every trial of {report.study} ({plural(n_complete, 'complete trial')}) and the best so far. "
        f"Dotted: guessing.{crosses}",
    )


def _cost(report: StudyReport) -> Drawn:
    n_timed = sum(row.milliseconds > 0 for row in report.ranked)
    machine = f" Measured on: {report.made['machine']}." if report.made.get("machine") else ""
    return Drawn(
        to_matplotlib(description.cost(report.rows, score_axis(report.shift_weight))),
        f"Score and cost of the deployed model, {plural(n_timed, 'trial')} of {report.study}. Blue: tied with the "
        f"best; orange: the proposed trial. Dotted: guessing.{machine}",
    )


def _importances(report: StudyReport) -> Drawn:
    rows = report.important
    figure = Figure(figsize=(COLUMN, 0.62 + ROW * 1.35 * len(rows)))
    axes = style.place_axes(figure, 1.25, 0.46, 0.15, 0.08)
    share, spread = (100 * np.array([pair[k] for pair in rows.values()]) for k in (0, 1))
    axes.barh(range(len(rows)), share, color=palette.BLUE, height=0.55)
    axes.errorbar(
        share,
        range(len(rows)),
        xerr=[np.minimum(spread, share), spread],
        fmt="none",
        ecolor=palette.INK,
        elinewidth=0.9,
        capsize=2,
    )
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    _named(axes, "share of the score's variation (%)", "")
    hidden = len(report.importances) - len(rows)
    return Drawn(
        figure,
        f"Importance of parameters (fANOVA) over {plural(len(report.ranked), 'trial')} of {report.study}; "
        f"lines: 95 % over resampled trials. {plural(hidden, 'parameter')} with importances no larger than "
        "their spread are left out.",
    )


def _parameters(report: StudyReport, varied: Sequence[str]) -> Drawn:
    columns = {name: [row.params.get(name) for row in report.ranked] for name in varied}
    picture = study.slice_picture(
        columns, [row.score for row in report.ranked], report.log, shift_weight=report.shift_weight
    )
    return Drawn(
        drawing.matplotlib_figure(picture, has_title=False),  # title and detail are in the caption instead
        f"Score against each parameter that varied, {plural(len(report.ranked), 'trial')} of {report.study}; "
        "the best trial in orange.",
    )


def _roc(predictions: Predictions, auc: Measured, what: str) -> Drawn:
    band = roc_band(predictions, group_draws(predictions.group, predictions.stratum, curve_cards.N_DRAWS_BAND))
    return Drawn(
        to_matplotlib(description.roc(band, f"AUC {svg_charts.with_ends(auc)}")),
        f"ROC curve of {what}: AUC {svg_charts.with_ends(auc, 3)}, {curve_cards.size_of(predictions)}. Every case "
        f"counts the same. Band: pointwise 95 % {INTERVAL_NOTE}. Dashed: guessing.",
    )


def _calibration(predictions: Predictions, error: Measured, what: str) -> Drawn:
    return Drawn(
        to_matplotlib(description.calibration(report_numbers.calibration_points(predictions))),
        f"Calibration of {what}: expected calibration error {svg_charts.with_ends(error, 3)}, "
        f"{curve_cards.size_of(predictions)}. Area: share of the weight; hollow: a single case; lines: 95 % "
        f"{INTERVAL_NOTE}.",
    )


def _decision_curve(predictions: Predictions, what: str) -> Drawn:
    draws = group_draws(predictions.group, predictions.stratum, curve_cards.N_DRAWS_BAND)
    curve = decision_curves.decision_curve(predictions, draws)
    return Drawn(
        to_matplotlib(description.decision_curve(curve)),
        f"Decision curve of {what}: {curve.prevalence:.0%} malignant, {curve_cards.size_of(predictions)}. "
        f"{decision_curves.DECISION_CURVE_NOTE}",
    )


def _learning_curve(report: StudyReport, curve: LearningCurve) -> Drawn:
    what = f"trial {report.proposed.number} of {report.study}, {plural(curve.n_cases, 'development case')}"
    return Drawn(
        to_matplotlib(describe_learning_curve(curve)),
        f"Learning curve over cases of {what}, {curve.n_subsets} subsets per size. {curve.sentence()} "
        f"{LEARNING_CURVE_NOTE}",
    )


def _probabilities(predictions: Predictions, class_names: Sequence[str], threshold: float, what: str) -> Drawn:
    return Drawn(
        to_matplotlib(description.probability_histogram(probability_histogram(predictions), class_names, threshold)),
        f"Predicted probabilities of {what}: {curve_cards.size_of(predictions)}. Every case counts the same. "
        "Dotted: threshold.",
    )


def _parts(rows: Sequence[tuple[str, Subgroup, Measured, Measured | None]], what: str) -> Drawn:
    figure = Figure(figsize=(COLUMN, 0.62 + ROW * 1.5 * len(rows)))
    axes = style.place_axes(figure, 1.75, 0.46, 0.15, 0.08)
    for place, (_, part, right, _) in enumerate(rows):
        axes.plot(
            100 * np.array(part.by_case),
            np.full(part.n_cases, place),
            "|",
            color=palette.GREY,
            markersize=7,
            markeredgewidth=0.7,
        )
        axes.hlines(place, 100 * right.low, 100 * right.high, color=palette.BLUE, linewidth=1.4)
        axes.plot(100 * right.value, place, "o", color=palette.BLUE, markersize=4.5)
    names = [f"{name}\n{plural(part.n_cases, 'case')}, {plural(part.n_images, 'image')}" for name, part, _, _ in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=6.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(-3, 103)
    _named(axes, "images called right (%)", "")
    return Drawn(
        figure,
        f"Share of images called right, {what}: mean over cases with a 95 % Wilson interval over cases. Ticks: cases.",
    )


# -- shared code ------------------------------------------------------------------------------------------------------


def to_matplotlib(figure: Description) -> Figure:
    """Return a described figure as a Matplotlib figure at column width.

    Args:
        figure: Description of axes and marks.
    """
    left, bottom, right, top = _BOX
    drawn = Figure(figsize=(COLUMN, COLUMN - left - right + bottom + top if figure.square else _HEIGHT))
    drawing.draw(style.place_axes(drawn, *_BOX), figure, drawing.PRINT)
    return drawn


def _named(axes: Axes, x: str, y: str) -> None:
    axes.tick_params(labelsize=7)
    axes.set_xlabel(x, fontsize=8, color=palette.INK)
    axes.set_ylabel(y, fontsize=8, color=palette.INK)


def _mark(figure: Figure) -> None:
    """Write `synthetic data` into a corner of the figure, because the caption may be separated from it."""
    height = figure.get_size_inches()[1]
    figure.text(0.01, 0.02 / height, "synthetic\ndata", fontsize=6, color=palette.GREY, ha="left", va="bottom")


def _colour(row: TrialRow) -> str:
    return palette.BLUE if row.tied else palette.GREY
