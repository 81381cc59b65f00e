"""Pictures of a study, described from plain data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import cos, radians
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.bootstrap import INTERVAL_NOTE
from bhsearch.evaluation.mixed_score import score_axis, score_title
from bhsearch.reporting.figures import description
from bhsearch.reporting.figures.marks import TURN, Axis, Box, Cell, Description, Dot, Line, Mark, nice_ticks
from bhsearch.reporting.figures.palette import BLUE, GREY, ORANGE
from bhsearch.reporting.figures.picture import WIDTH, Panel, Picture, single
from bhsearch.reporting.svg.elements import SIZE
from bhsearch.reporting.svg.frame import labels_height
from bhsearch.reporting.svg.text_width import shortened, text_width
from bhsearch.states import COMPLETE, PRUNED

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import FloatArray

_LONGEST_NAME = 180.0  # units
_ROW = 27.0  # height of a row
_MOST_CHOICES = 12  # largest number of choices of a categorical parameter for which each choice is labelled
_LONGEST_CHOICE = 80.0  # units
_SLICE, _BETWEEN = 145.0, 34.0  # height of the panel of a parameter, and distance of two panels


@dataclass(frozen=True)
class _Trial:
    """A trial of a history; see `description.TrialPoint`."""

    number: int
    state: str
    score: float | None
    reason: str = ""


def history_picture(
    values: Sequence[float | None], states: Sequence[str], note: str = "", shift_weight: float = 0.0
) -> Picture:
    """Return a picture of the score of every trial in order, and the best score so far.

    Args:
        values: Score per trial; None or nan if a trial has no score. Length n_trials.
        states: State per trial. Only trials in state `COMPLETE`, `PRUNED` or `FAIL` are drawn. Length n_trials.
        note: Note in a corner; may be empty.
        shift_weight: Weight of the shifts in the score, which the name of the score follows from.
    """
    ended = [
        _Trial(number, state, float(value) if state in (COMPLETE, PRUNED) and np.isfinite(value) else None)
        for number, (value, state) in enumerate(zip(_numbers(values), states, strict=True))
    ]
    detail = f"score: mean case-weighted {score_title(shift_weight)} over folds"
    return single(description.history(ended, score_axis(shift_weight)), "Search history", detail, note)


def cost_picture(
    seconds: Sequence[float], scores: Sequence[float], names: Sequence[str], note: str = "", shift_weight: float = 0.0
) -> Picture:
    """Return a picture of the score of each complete trial against its duration.

    Args:
        seconds: Duration of each complete trial. Length n_trials.
        scores: Score of each trial. Length n_trials.
        names: Backbone of each trial; each of the six most frequent backbones has its own colour. Length n_trials.
        note: Note in a corner; may be empty.
        shift_weight: Weight of the shifts in the score, which the name of the score follows from.
    """
    detail = "a point is a complete trial; the line: best for its seconds or less"
    shown = [shortened(name, _LONGEST_NAME, SIZE) for name in names]
    described = description.duration(seconds, scores, shown, score_axis(shift_weight))
    return single(described, "Score and cost", detail, note)


def importances_picture(importances: Mapping[str, float], note: str = "") -> Picture:
    """Return a picture of the importance of each parameter, most important at the top.

    Args:
        importances: Share of the score's variation that each parameter explains, 0 to 1.
        note: Note in a corner; may be empty.
    """
    ordered = sorted(importances.items(), key=lambda item: -item[1])
    y = _rows([name for name, _ in ordered])
    cells = [Cell(0.0, k - 0.35, value, 0.7, BLUE, f"{value:.2f}", beside=True) for k, (_, value) in enumerate(ordered)]
    most = max([*importances.values(), 0.01])
    figure = Description(Axis("importance", 0.0, most * 1.1), y, cells)
    detail = "share of the variation of the score that a parameter explains"
    return single(figure, "Parameter importances", detail, note, left=_room(y), height=_height(y))


def intervals_picture(
    names: Sequence[str],
    scores: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    tied: npt.ArrayLike,
    note: str = "",
    shift_weight: float = 0.0,
) -> Picture:
    """Return a picture of the best trials with their intervals, in the given order.

    The trials tied with the best are marked.

    Args:
        names: Label of each trial, such as `trial 17`. Length n_trials.
        scores: Score of each trial. Length n_trials.
        low: Lower end of each interval. Length n_trials.
        high: Upper end of each interval. Length n_trials.
        tied: Whether each trial is tied with the best. Shape (n_trials,).
        note: Note in a corner; may be empty.
        shift_weight: Weight of the shifts in the score, which the name of the score follows from.
    """
    marks: list[Mark] = []
    rows = zip(names, scores, low, high, np.asarray(tied, dtype=bool).tolist(), strict=True)
    for place, (name, score, lower, upper, is_tied) in enumerate(rows):
        colour, said = (BLUE, "tied with the best") if is_tied else (GREY, "below the best")
        ends = f" [{lower:.3f}, {upper:.3f}]" if np.isfinite([lower, upper]).all() else ""
        marks.append(Line([lower, upper], [place, place], colour, 1.8))
        marks.append(Dot(score, float(place), colour, 4.2, f"{name}: {score:.3f}{ends}", 1.0, name=said))
    known = [value for value in (*scores, *low, *high) if np.isfinite(value)]
    least, most = (min(known), max(known)) if known else (0.0, 1.0)
    room = 0.05 * (most - least) or 0.01
    y = _rows(names)
    figure = Description(Axis(score_axis(shift_weight), least - room, most + room), y, marks)
    detail = f"95 % intervals {INTERVAL_NOTE}"
    return single(figure, "Best trials", detail, note, left=_room(y), height=_height(y))


def _rows(names: Sequence[str]) -> Axis:
    """Return a vertical axis with one row per name, from the top."""
    labels = [shortened(name, _LONGEST_NAME, SIZE) for name in names] or [""]
    return Axis("", len(labels) - 0.4, -0.6, ticks=range(len(labels)), labels=labels)


def _room(rows: Axis) -> float:
    """Return the width of the labels of rows."""
    return 32.0 + max((text_width(label, SIZE) for label in rows.labels), default=0.0)


def _height(rows: Axis) -> float:
    return 70.0 + _ROW * max(len(rows.labels), 2)


def slice_picture(
    params: Mapping[str, Sequence[Any]],
    values: Sequence[float | None],
    log: Collection[str] = (),
    note: str = "",
    shift_weight: float = 0.0,
) -> Picture:
    """Return a picture of the score against each parameter, one panel per parameter, with the best trial marked.

    Args:
        params: Value of each parameter in every trial; None if a trial has no value. Numbers are drawn on a numeric
            axis; other values, including booleans, as categories with jittered points. Each of length n_trials.
        values: Score per trial; trials without a score are left out. Length n_trials.
        log: Parameters with a logarithmic axis.
        note: Note in a corner; may be empty.
        shift_weight: Weight of the shifts in the score, which the name of the score follows from.
    """
    score = _numbers(values)
    finite = score[np.isfinite(score)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    pad = 0.06 * (high - low or 0.1)
    n_columns = min(4, max(1, len(params)))
    width = max(WIDTH, 250.0 * n_columns + 70.0)
    step = (width - 85.0) / n_columns
    slices = [_slice(name, column, score, name in log, step - _BETWEEN) for name, column in params.items()]
    panels, top = [], 10.0
    for place, (x, marks) in enumerate(slices):
        across = place % n_columns
        left = 65.0 + step * across
        ticks = nice_ticks(low - pad, high + pad)
        y = Axis(score_axis(shift_weight), low - pad, high + pad)
        if across:  # the first panel of the row has the labels
            y = Axis("", y.low, y.high, ticks=ticks, labels=[""] * len(ticks))
        panels.append(Panel(Description(x, y, marks), Box(left, top, left + step - _BETWEEN, top + _SLICE)))
        if across == n_columns - 1 or place == len(slices) - 1:
            row = slices[place - across : place + 1]
            top += _SLICE + max(labels_height(axis, step - _BETWEEN) for axis, _ in row) + 20.0
    detail = "one point a complete trial; the best one in orange"
    alt = f"{score_axis(shift_weight)} against {', '.join(params)}"
    return Picture("Score by parameter", detail, note, panels, width=width, height=top, alt=alt)


def _slice(name: str, column: Sequence[Any], score: FloatArray, is_log: bool, width: float) -> tuple[Axis, list[Mark]]:
    """Return axis and marks of the panel of one parameter, which has a width in units."""
    there = np.isfinite(score) & np.array([value is not None for value in column], dtype=bool)
    kept = [value for value, inside in zip(column, there, strict=True) if inside]
    if not kept:
        return Axis(name, 0.0, 1.0), []
    if all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in kept):
        numbers = [float(value) for value in kept]
        axis, x = _numeric(name, numbers, is_log and min(numbers) > 0), np.array(numbers)
    else:
        choices = sorted({str(value) for value in kept})
        # Steps of the golden ratio spread the points evenly and reproducibly.
        jitter = (np.arange(len(kept)) * 0.6180339887 % 1 - 0.5) * 0.5
        x = np.array([choices.index(str(value)) for value in kept]) + jitter
        shown = choices if len(choices) <= _MOST_CHOICES else []
        # Turned labels reach to the left of their tick, but not into the panel there.
        reach = (0.6 * width / (len(choices) + 0.2) + _BETWEEN / 2) / cos(radians(TURN))
        labels = [shortened(choice, min(_LONGEST_CHOICE, reach), SIZE) for choice in shown] or [""]
        axis = Axis(name, -0.6, len(choices) - 0.4, ticks=range(len(labels)), labels=labels)
    y = score[there].tolist()
    dots: list[Mark] = [Dot(a, b, BLUE, 2.9, f"{b:.3f}", 0.55) for a, b in zip(x.tolist(), y, strict=True)]
    best = int(np.argmax(y))
    return axis, [*dots, Dot(float(x[best]), y[best], ORANGE, 5.0, f"best: {y[best]:.3f}", 1.0)]


def _numeric(name: str, numbers: Sequence[float], is_log: bool) -> Axis:
    """Return an axis for numbers, with a margin on both sides."""
    low, high = min(numbers), max(numbers)
    if is_log:
        factor = max((high / low) ** 0.05, 1.02)
        return Axis(name, low / factor, high * factor, log=True)
    room = 0.05 * (high - low) or 0.5
    return Axis(name, low - room, high + room)


def _numbers(values: Sequence[float | None]) -> FloatArray:
    """Return scores as an array of floats, with nan for None."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
