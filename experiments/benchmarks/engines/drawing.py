"""The comparison's figure: regret against trials and against simulated seconds, with bands over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import NullFormatter

from bhsearch.reporting.figures import palette, style
from experiments.benchmarks.engines.contenders import PLAIN_FIRST, SHIPPED
from experiments.benchmarks.engines.judging import Best, at_seconds, band, regrets
from experiments.benchmarks.engines.replay import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _ROW, _TOP = 10.2, 2.75, 1.0  # inches
_COLUMNS = ("trials", "simulated seconds", "trials")
_GREEN, _PURPLE = palette.CYCLE[2], palette.CYCLE[3]
# Colour by kind of search, dashes for the other engine.
LOOKS: dict[str, dict[str, Any]] = {
    SHIPPED: {"color": palette.BLUE, "linewidth": 2.2},
    PLAIN_FIRST: {"color": palette.BLUE, "linewidth": 1.0},
    "optuna cmaes": {"color": _GREEN},
    "optuna qmc": {"color": _PURPLE},
    "optuna random": {"color": palette.GREY},
    "keras-tuner bayesian": {"color": palette.VERMILLION, "linestyle": style.DASHED},
    "keras-tuner random": {"color": palette.GREY, "linestyle": style.DASHED},
    "keras-tuner grid": {"color": palette.INK, "linestyle": style.DASHED},
    "none": {"color": palette.GREY},
    "median": {"color": palette.BLUE, "linewidth": 2.2},
    "halving": {"color": palette.ORANGE},
    "wilcoxon": {"color": _GREEN},
}


def figure(arenas: Mapping[str, tuple[Mapping[str, Sequence[Trace]], Best]], n_seeds: int) -> Figure:
    """Draw a row of three panels per arena.

    Args:
        arenas: Replays by contender, and the best there is, by arena.
        n_seeds: Of most of them.
    """
    height = _TOP + _ROW * len(arenas)
    made = style.new_figure(
        "What a search costs",
        f"regret: best there is less best so far; mean over {n_seeds} seeds (fewer where the table says so), "
        "bands: 95 % bootstrap over seeds",
        width=_WIDTH,
        height=height,
    )
    for row, (name, (found, best)) in enumerate(arenas.items()):
        panels = [_panel(made, row, column, height) for column in range(3)]
        for axes, label in zip(panels, _COLUMNS, strict=True):
            style.faint_grid(axes)
            style.label_axes(axes, label, "")
        panels[0].set_title(f"{name}: regret", fontsize=9, loc="left", color=palette.INK)
        panels[2].set_title("regret on cases put aside", fontsize=9, loc="left", color=palette.INK)
        _lines(panels, found, best)
        handles, labels = panels[0].get_legend_handles_labels()
        made.legend(
            handles,
            labels,
            fontsize=7.5,
            frameon=False,
            ncols=8,
            columnspacing=1.0,
            handlelength=2.2,
            loc="upper left",
            bbox_to_anchor=(0.02, 1 - (_TOP - 0.35 + _ROW * row) / height),
        )
    return made


def _panel(made: Figure, row: int, column: int, height: float) -> Axes:
    wide = _WIDTH / 3
    top = _TOP + _ROW * row + 0.2
    return style.place_axes(made, 0.6 + wide * column, height - top - (_ROW - 0.95), 0.15 + wide * (2 - column), top)


def _lines(panels: Sequence[Axes], found: Mapping[str, Sequence[Trace]], best: Best) -> None:
    latest = max(np.median([trace.clock[-1] for trace in traces]) for traces in found.values())
    first = min(np.median([trace.clock[0] for trace in traces]) for traces in found.values())
    moments = np.geomspace(first, latest, 60)
    for name, traces in found.items():
        length = max(len(trace.scores) for trace in traces)
        score, held_out = regrets(traces, best, length)
        by_time = at_seconds(traces, score, moments)
        # Drawn where every study has a trial behind it and some study still has one ahead.
        ahead = moments <= max(trace.clock[-1] for trace in traces)
        drawn = ~np.isnan(by_time).any(axis=0) & ahead
        axis = np.arange(1, length + 1)
        for axes, x, values in (
            (panels[0], axis, score),
            (panels[1], moments[drawn], by_time[:, drawn]),
            (panels[2], axis, held_out),
        ):
            if len(x):
                _line(axes, x, values, name)
    for axes in panels[:2]:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    panels[1].set_xscale("log")
    panels[1].set_ylim(panels[0].get_ylim())


def _line(axes: Axes, x: np.ndarray, values: np.ndarray, name: str) -> None:
    shown, look = band(values), LOOKS.get(name, {"color": palette.INK})
    axes.plot(x, np.maximum(shown.mean, 1e-4), label=name, **{"linewidth": 1.3, **look})
    axes.fill_between(
        x, np.maximum(shown.low, 1e-4), np.maximum(shown.high, 1e-4), color=look["color"], alpha=0.10, linewidth=0
    )
