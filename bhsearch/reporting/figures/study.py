"""Figures of a study, drawn from plain data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bhsearch.evaluation.bootstrap import INTERVAL_NOTE
from bhsearch.evaluation.mixed_score import score_axis, score_title
from bhsearch.reporting.figures import description, style
from bhsearch.reporting.figures.drawing import TitledFigure
from bhsearch.states import COMPLETE, PRUNED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bhsearch.evaluation.predictions import FloatArray

_LONGEST_NAME = 26  # characters
_MOST_CHOICES = 12  # largest number of choices of a categorical parameter for which each choice is labelled


@dataclass(frozen=True)
class _Trial:
    """A trial of a history; see `description.TrialPoint`."""

    number: int
    state: str
    score: float | None
    reason: str = ""


def history_figure(
    values: Sequence[float | None], states: Sequence[str], note: str = "", shift_weight: float = 0.0
) -> Figure:
    """Draw the score of every trial in order, and the best score so far.

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
    return TitledFigure(description.history(ended, score_axis(shift_weight)), "Search history", detail, note).figure()


def cost_figure(
    seconds: Sequence[float], scores: Sequence[float], names: Sequence[str], note: str = "", shift_weight: float = 0.0
) -> Figure:
    """Draw the score of each complete trial against its duration.

    Args:
        seconds: Duration of each complete trial. Length n_trials.
        scores: Score of each trial. Length n_trials.
        names: Backbone of each trial; each of the six most frequent backbones has its own colour. Length n_trials.
        note: Note in a corner; may be empty.
        shift_weight: Weight of the shifts in the score, which the name of the score follows from.
    """
    detail = "a point is a complete trial; the line: best for its seconds or less"
    described = description.duration(seconds, scores, [_short(name) for name in names], score_axis(shift_weight))
    return TitledFigure(described, "Score and cost", detail, note).figure()


def importances_figure(importances: Mapping[str, float], note: str = "") -> Figure:
    """Draw the importance of each parameter, most important at the top.

    Args:
        importances: Share of the score's variation that each parameter explains, 0 to 1.
        note: Note in a corner; may be empty.
    """
    ordered = sorted(importances.items(), key=lambda item: item[1])
    height = max(2.4, 1.5 + 0.27 * len(ordered))
    detail = "share of the variation of the score that a parameter explains"
    figure = style.new_figure("Parameter importances", detail, note, height=height)
    axes = style.place_axes(figure, 1.9, 0.6, 0.5, 0.75)
    values = [value for _, value in ordered]
    axes.barh(range(len(ordered)), values, color=style.BLUE, height=0.7)
    axes.set_yticks(range(len(ordered)), [_short(name) for name, _ in ordered])
    for place, value in enumerate(values):
        axes.annotate(f"{value:.2f}", (value, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set(xlim=(0, max([*values, 0.01]) * 1.08))
    axes.tick_params(axis="y", length=0)
    style.label_axes(axes, "importance", "")
    return figure


def slice_figure(
    params: Mapping[str, Sequence[Any]],
    values: Sequence[float | None],
    log: Collection[str] = (),
    note: str = "",
    shift_weight: float = 0.0,
) -> Figure:
    """Draw the score against each parameter, with one panel per parameter and the best trial marked.

    Args:
        params: Value of each parameter in every trial; None if a trial has no value. Numbers are drawn on a numeric
            axis; other values, including booleans, as categories with jittered points. Each of length n_trials.
        values: Score per trial; trials without a score are left out. Length n_trials.
        log: Parameters with a logarithmic axis.
        note: Note in a corner; may be empty.
        shift_weight: Weight of the shifts in the score, which the name of the score follows from.
    """
    score = _numbers(values)
    n_columns = min(4, max(1, len(params)))
    n_rows = max(1, -(-len(params) // n_columns))
    width, panel = 2.5 * n_columns + 0.7, 2.5  # inches
    detail = "one point a complete trial; the best one in orange"
    figure = style.new_figure("Score by parameter", detail, note, max(width, 6.4), panel * n_rows + 0.75)
    full_width, full_height = figure.get_size_inches()
    step = (full_width - 0.55) / n_columns
    finite = score[np.isfinite(score)]
    pad = 0.06 * (np.ptp(finite) or 0.1) if len(finite) else 0.0
    for place, (name, column) in enumerate(params.items()):
        down, across = divmod(place, n_columns)
        top = 0.75 + panel * down
        left = 0.65 + step * across
        axes = style.place_axes(figure, left, full_height - top - panel + 1.05, full_width - left - step + 0.25, top)
        _slice_panel(axes, column, score, name in log)
        axes.set_xlabel(_short(name), fontsize=9, color=style.INK)
        if len(finite):
            axes.set_ylim(finite.min() - pad, finite.max() + pad)
        axes.locator_params(axis="y", nbins=5)
        if across:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel(score_axis(shift_weight), fontsize=9, color=style.INK)
    return figure


def _slice_panel(axes: Axes, column: Sequence[Any], score: FloatArray, is_log: bool) -> None:
    """Draw the panel of one parameter."""
    there = np.isfinite(score) & np.array([value is not None for value in column], dtype=bool)
    style.faint_grid(axes)
    if not there.any():
        return
    kept = [value for value, inside in zip(column, there, strict=True) if inside]
    y = score[there]
    if all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in kept):
        x = np.array(kept, dtype=np.float64)
        if is_log:
            axes.set_xscale("log")
            # Within two decades, labels at powers of ten alone would leave one label or none.
            subs = (1.0,) if x.max() / x.min() > 100 else (1.0, 2.0, 5.0)
            axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.locator_params(axis="x", nbins=4)
    else:
        names = sorted({str(value) for value in kept})
        # Steps of the golden ratio spread the points evenly and reproducibly.
        jitter = (np.arange(len(kept)) * 0.6180339887 % 1 - 0.5) * 0.5
        x = np.array([names.index(str(value)) for value in kept]) + jitter
        ticks = range(len(names)) if len(names) <= _MOST_CHOICES else range(0)
        axes.set_xticks(ticks, [_short(names[tick], 14) for tick in ticks], rotation=35, ha="right", fontsize=7)
        axes.set_xlim(-0.6, len(names) - 0.4)
    best = int(np.argmax(y))
    axes.scatter(x, y, s=14, color=style.BLUE, alpha=0.55, linewidth=0)
    axes.scatter(x[best], y[best], s=44, color=style.ORANGE, edgecolor=style.INK, linewidth=0.6, zorder=3)


def intervals_figure(
    names: Sequence[str],
    scores: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    tied: npt.ArrayLike,
    note: str = "",
    shift_weight: float = 0.0,
) -> Figure:
    """Draw the best trials with their intervals, in the given order, and mark the trials tied with the best.

    Args:
        names: Label of each trial, such as `trial 17`. Length n_trials.
        scores: Score of each trial. Length n_trials.
        low: Lower end of each interval. Length n_trials.
        high: Upper end of each interval. Length n_trials.
        tied: Whether each trial is tied with the best. Shape (n_trials,).
        note: Note in a corner; may be empty.
        shift_weight: Weight of the shifts in the score, which the name of the score follows from.
    """
    is_tied = np.asarray(tied, dtype=bool)
    place = np.arange(len(names))
    height = max(2.6, 1.6 + 0.27 * len(names))
    figure = style.new_figure("Best trials", f"95 % intervals {INTERVAL_NOTE}", note, height=height)
    axes = style.place_axes(figure, 1.9, 0.6, 0.3, 0.95)
    style.faint_grid(axes)
    groups = ((is_tied, style.BLUE, "o", "tied with the best"), (~is_tied, style.GREY, "s", "below the best"))
    for inside, colour, marker, name in groups:
        if inside.any():
            value, ends = np.asarray(scores)[inside], (np.asarray(low)[inside], np.asarray(high)[inside])
            axes.hlines(place[inside], *ends, color=colour, linewidth=1.6)
            axes.plot(value, place[inside], marker, color=colour, markersize=6, label=name)
    axes.set_yticks(place, [_short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=7)
    style.label_axes(axes, score_axis(shift_weight), "")
    style.legend_above(axes)
    return figure


def _numbers(values: Sequence[float | None]) -> FloatArray:
    """Return scores as an array of floats, with nan for None."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _short(name: str, longest: int = _LONGEST_NAME) -> str:
    """Truncate a name to fit beside an axis."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
