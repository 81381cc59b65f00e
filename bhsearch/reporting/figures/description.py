"""Descriptions of figures from numbers, independent of the drawing library.

`reporting.svg` draws a `Description` as SVG for pages and for MLflow, `drawing.draw` with Matplotlib for print.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np

from bhsearch.reporting.figures.marks import (
    DASHED,
    DOTTED,
    UNIT_TICKS,
    Area,
    Axis,
    Bar,
    Cross,
    Description,
    Dot,
    Label,
    Line,
    Mark,
    whole_ticks,
)
from bhsearch.reporting.figures.palette import BLUE, CYCLE, GREY, INK, ORANGE, VERMILLION
from bhsearch.states import FAILED, PRUNED

if TYPE_CHECKING:
    from bhsearch.evaluation.curves import Band
    from bhsearch.evaluation.predictions import FloatArray
    from bhsearch.evaluation.supplementary.decision_curve import DecisionCurve
    from bhsearch.reporting.report_data import TrialRow
    from bhsearch.reporting.report_numbers import Points

ROC_AUC = "ROC AUC"
_LEAST_SECONDS = 1e-3  # a logarithmic axis has no zero


class TrialPoint(Protocol):
    """A trial as needed for the history of a study."""

    @property
    def number(self) -> int:
        """Number of the trial."""

    @property
    def state(self) -> str:
        """One of the states of `bhsearch.states`."""

    @property
    def score(self) -> float | None:
        """Score; None if the trial has none."""

    @property
    def reason(self) -> str:
        """Reason of a failure; empty if the trial did not fail."""


def roc(band: Band, headline: str = "") -> Description:
    """Return a `Description` of the mean ROC curve over folds with its confidence band, starting at the origin.

    Args:
        band: Curve and band from `roc_band`.
        headline: Main number, such as the AUC; may be empty.
    """
    x, mean, low, high = ([0.0, *values.tolist()] for values in (band.x, band.mean, band.low, band.high))
    area = [Area(x, low, high, BLUE)] if band.has_interval else []
    return Description(
        Axis("false positive rate (1 − specificity)", 0, 1, ticks=UNIT_TICKS),
        Axis("true positive rate (sensitivity)", 0, 1, ticks=UNIT_TICKS),
        [_diagonal(), *area, Line(x, mean, BLUE, 2.6)],
        square=True,
        headline=headline,
    )


def precision_recall(band: Band, headline: str = "") -> Description:
    """Return a `Description` of the mean precision over folds against recall, with its confidence band.

    A dashed line shows the precision of guessing.

    Args:
        band: Curve and band from `precision_recall_band`.
        headline: Main number, such as the average precision; may be empty.
    """
    x, mean, low, high = (values.tolist() for values in (band.x, band.mean, band.low, band.high))
    area = [Area(x, low, high, BLUE)] if band.has_interval else []
    guessing = Line([0, 1], [band.base, band.base], GREY, 1.2, DASHED)
    return Description(
        Axis("recall (sensitivity)", 0, 1, ticks=UNIT_TICKS),
        Axis("precision", 0, 1, ticks=UNIT_TICKS),
        [guessing, *area, Line(x, mean, BLUE, 2.6), Label(0.01, band.base, f"guessing {band.base:.2f}", -14)],
        square=True,
        headline=headline,
    )


def calibration(points: Points) -> Description:
    """Return a `Description` of observed against predicted probability, with intervals.

    The area of a point is proportional to its share of the weight.

    Args:
        points: Points from `calibration_points`.
    """
    several = np.isfinite(points.low) & np.isfinite(points.high)
    intervals = [
        Line([x, x], [low, high], BLUE, 1.4)
        for x, low, high in zip(points.predicted[several], points.low[several], points.high[several], strict=True)
    ]
    dots = [replace(dot, hollow=not known) for dot, known in zip(_bins(points, BLUE), several.tolist(), strict=True)]
    return Description(*_calibration_axes(), [_diagonal(), *intervals, *dots], square=True)


def calibration_curves(curves: Sequence[tuple[Points, str, str]], headline: str = "") -> Description:
    """Return a `Description` of one or several calibration curves, without intervals.

    Args:
        curves: Points, colour and name of each curve, such as before and after calibration; a name may be empty.
        headline: Main number, such as the expected calibration error; may be empty.
    """
    marks: list[Mark] = [_diagonal()]
    for points, colour, name in curves:
        marks += [Line(points.predicted.tolist(), points.observed.tolist(), colour, 2.1, name=name)]
        marks += _bins(points, colour)
    return Description(*_calibration_axes(), marks, square=True, headline=headline)


def calibration_weights(mass: FloatArray) -> Description:
    """Return a `Description` of the histogram of predicted probabilities: the share of the weight in each bin.

    Args:
        mass: Share of the weight. Shape (n_bins,).
    """
    width = 1 / len(mass)
    x, _ = _calibration_axes()
    bars = [Bar((k + 0.03) * width, 0.94 * width, height, BLUE) for k, height in enumerate(mass.tolist())]
    return Description(x, Axis("weight", 0, 1, ticks=(0.0, 0.5, 1.0)), bars, square=True)


def decision_curve(curve: DecisionCurve) -> Description:
    """Return a `Description` of the net benefit of a model, of treating all images as malignant, and of treating none.

    Values far below 0 are left out: no one would act on such a model.

    Args:
        curve: The decision curve.
    """
    floor = -0.25 * max(curve.prevalence, 0.05)
    x = curve.thresholds.tolist()
    model, low, high = (np.maximum(values, floor).tolist() for values in (curve.net_benefit, curve.low, curve.high))
    n_shown = int((curve.treat_all >= floor).sum())  # falls at every threshold
    area = [Area(x, low, high, BLUE)] if np.isfinite(curve.low).all() else []
    return Description(
        Axis("threshold of P(malignant)", 0, 1, ticks=UNIT_TICKS),
        Axis("net benefit", floor, max(*(high if area else model), curve.prevalence) * 1.08, ticks=UNIT_TICKS),
        [
            Line([0, 1], [0, 0], INK, 1.4, DOTTED, "treat none"),
            Line(x[:n_shown], curve.treat_all[:n_shown].tolist(), GREY, 1.6, DASHED, "treat all"),
            *area,
            Line(x, model, BLUE, 2.6, name="model"),
        ],
    )


def probability_histogram(shares: FloatArray, class_names: Sequence[str], threshold: float) -> Description:
    """Return a `Description` of the histogram of P(malignant) within each class, with the threshold as a dotted line.

    Args:
        shares: Shares from `evaluation.supplementary.probability_histogram`. Shape (2, n_bins).
        class_names: Names of the two classes.
        threshold: Smallest probability that is labelled malignant; nan if unknown.
    """
    n_bins = shares.shape[1]
    percent = 100 * shares
    top = 1.2 * max(float(percent.max()), 5.0)
    marks: list[Mark] = []
    if np.isfinite(threshold):
        marks.append(Line([threshold, threshold], [0, top], INK, 1.4, DOTTED, "threshold"))
    for share, colour, name in zip(percent, (BLUE, VERMILLION), class_names, strict=True):
        edges = [edge / n_bins for edge in range(n_bins + 1) for _ in range(2)]
        heights = [0.0, *(height for height in share.tolist() for _ in range(2)), 0.0]
        marks.append(Line(edges, heights, colour, 2.1, name=name))
        peak = int(np.argmax(share))
        marks.append(Label((peak + 0.5) / n_bins, float(share[peak]), name))
    return Description(
        Axis("predicted P(malignant)", 0, 1, ticks=UNIT_TICKS), Axis("share of the class (%)", 0, top), marks
    )


def _calibration_axes() -> tuple[Axis, Axis]:
    return (
        Axis("predicted P(malignant)", 0, 1, ticks=UNIT_TICKS),
        Axis("share that is malignant", 0, 1, ticks=UNIT_TICKS),
    )


def _bins(points: Points, colour: str) -> list[Dot]:
    """Return a dot per probability bin, whose title has the interval if the bin has one."""
    dots = []
    for x, y, low, high, mass in zip(
        points.predicted, points.observed, points.low, points.high, points.mass, strict=True
    ):
        ends = f" ({low:.0%} to {high:.0%})" if np.isfinite([low, high]).all() else ""
        title = f"P {x:.2f}: {y:.0%}{ends} malignant, {mass:.0%} of the weight"
        dots.append(Dot(x, y, colour, 3 + 16 * float(mass) ** 0.5, title, 0.75))
    return dots


def _diagonal() -> Line:
    return Line([0, 1], [0, 1], GREY, 1.2, DASHED)


def history(rows: Sequence[TrialPoint], axis: str = ROC_AUC) -> Description:
    """Return a `Description` of the scores of all trials in order, with the best score so far.

    Failed trials are crosses. Pruned trials with a score are hollow, and never the best.

    Args:
        rows: All trials, ordered by number.
        axis: Name of the score.
    """
    low, high = _padded([*(row.score for row in rows if row.score is not None), 0.5])
    x = Axis("trial", -0.5, max(len(rows) - 0.5, 0.5), ticks=whole_ticks(0, max(len(rows) - 1, 1)))
    steps, complete, pruned, failed = [], [], [], []
    top: tuple[int, float, int] | None = None  # place, score and number of the best trial so far
    for place, row in enumerate(rows):
        title = f"trial {row.number}: "
        if row.score is not None and row.state == PRUNED:
            said = f"{title}{row.score:.3f}, pruned"
            pruned.append(Dot(place, row.score, GREY, title=said, hollow=True, name="pruned"))
        elif row.score is not None:
            complete.append(Dot(place, row.score, BLUE, title=f"{title}{row.score:.3f}", name="complete"))
            if top is None or row.score > top[1]:
                top = (place, row.score, row.number)
        elif row.state == FAILED:
            failed.append(Cross(place, f"{title}{row.reason}", "failed"))
        if top is not None:
            steps.append((float(place), top[1]))
    best = [_stairs(steps, VERMILLION, 1.8, "best so far")] if steps else []
    marks: list[Mark] = [_guessing(x), *best, *complete, *pruned, *failed]
    if top is not None:
        place, score, number = top
        marks.append(Dot(place, score, ORANGE, 5.5, f"trial {number}: {score:.3f}", 1.0))
        marks.append(Label(place, score, f"trial {number}: {score:.3f}"))
    return Description(x, Axis(axis, low, high), marks)


def cost(rows: Sequence[TrialRow], axis: str = ROC_AUC) -> Description:
    """Return a `Description` of score against inference time per image, with trials tied with the best in blue.

    The proposed trial is orange.

    Args:
        rows: All trials; trials without a score or a known time are not drawn, and at least one must be drawn.
        axis: Name of the score.
    """
    timed = [row for row in rows if row.score is not None and row.milliseconds > 0]
    low, high = _padded([*(row.score for row in timed if row.score is not None), 0.5])
    milliseconds = [row.milliseconds for row in timed]
    x = Axis("milliseconds an image", min(milliseconds) / 1.5, max(milliseconds) * 1.5, log=True)
    marks: list[Mark] = [_guessing(x)]
    for row in sorted(timed, key=lambda row: row.tied):
        title = f"trial {row.number}: {row.score:.3f}, {row.milliseconds:.3g} ms an image, {row.megabytes:.3g} MB"
        marks.append(Dot(row.milliseconds, row.score or 0.0, BLUE if row.tied else GREY, 5, title, 0.8))
    for row in timed:
        if row.proposed:
            at = (row.milliseconds, row.score or 0.0)
            marks.append(Dot(*at, ORANGE, 6, f"trial {row.number}", 1))
            marks.append(Label(*at, f"proposed: trial {row.number}", 10))
    return Description(x, Axis(axis, low, high), marks)


def duration(
    seconds: Sequence[float], scores: Sequence[float], names: Sequence[str], axis: str = ROC_AUC
) -> Description:
    """Return a `Description` of the score of each complete trial against its duration, with a line of best scores.

    The line shows, at each duration, the best score of the trials that took at most this long.

    Args:
        seconds: Duration of each trial; at least one trial. Length n_trials.
        scores: Score of each trial. Length n_trials.
        names: Backbone of each trial; each of the six most frequent backbones has its own colour. Length n_trials.
        axis: Name of the score.
    """
    seconds = np.maximum(seconds, _LEAST_SECONDS).tolist()
    common = [name for name, _ in Counter(names).most_common(len(CYCLE))]
    colours = dict(zip(common, CYCLE, strict=False))
    marks: list[Mark] = []
    for name in [*common, None]:
        for second, score, own in zip(seconds, scores, names, strict=True):
            if own == name or (name is None and own not in colours):
                title = f"{own}: {score:.3f}, {second:.3g} s"
                marks.append(Dot(second, score, colours.get(own, GREY), 4, title, name=name or "others"))
    order = np.argsort(seconds, kind="stable")
    best = np.maximum.accumulate(np.asarray(scores)[order]).tolist()
    marks.append(_stairs(list(zip(np.asarray(seconds)[order].tolist(), best, strict=True)), INK, 1.3))
    x = Axis("seconds", min(seconds) / 1.2, max(seconds) * 1.2, log=True)
    return Description(x, Axis(axis, *_padded(scores)), marks)


def _guessing(x: Axis) -> Line:
    return Line([x.low, x.high], [0.5, 0.5], INK, 1.4, DOTTED, "guessing")


def _stairs(steps: Sequence[tuple[float, float]], colour: str, width: float, name: str = "") -> Line:
    """Return a line that keeps the value of each point until the next point."""
    stairs = [point for (left, y), (right, _) in pairwise(steps) for point in ((left, y), (right, y))]
    stairs += steps[-1:]
    return Line([x for x, _ in stairs], [y for _, y in stairs], colour, width, name=name)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a scale for values, with a margin on both sides."""
    low, high = min(values), max(values)
    room = 0.12 * max(high - low, 0.05)
    return max(low - room, 0.0), min(high + room, 1.02)
