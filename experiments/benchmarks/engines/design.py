"""Which points are recorded: a design over the whole space, and a small part of it in full."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from bhsearch.objectives.space import Parameter, Params, starting_point

SOBOL, GRID = "sobol", "grid"
N_VIEWS = 2  # of every point of the grid
LEARNING_RATES = (0.003, 0.01, 0.03)  # of the grid
_SCRAMBLE = 6


@dataclass(frozen=True)
class Point:
    """One point that is to be recorded.

    Attributes:
        design: `SOBOL` or `GRID`.
        number: Its place in the design, from 0.
        params: Where it lies.
    """

    design: str
    number: int
    params: Params


def sobol_points(space: Sequence[Parameter], n_points: int) -> list[Point]:
    """The first points of one scrambled Sobol sequence over a space."""
    engine = qmc.Sobol(len(space), scramble=True, seed=_SCRAMBLE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a sequence that stops early is balanced a little worse
        drawn = engine.random(n_points)
    return [Point(SOBOL, number, at_shares(space, shares)) for number, shares in enumerate(drawn)]


def at_shares(space: Sequence[Parameter], shares: Sequence[float] | np.ndarray) -> Params:
    """The point at a share of the way through each parameter's values.

    Args:
        space: Its parameters.
        shares: 0 to below 1, one per parameter.
    """
    return {row.name: _value(row, float(share)) for row, share in zip(space, shares, strict=True)}


def _value(row: Parameter, share: float) -> object:
    if row.choices:
        return row.choices[min(int(share * len(row.choices)), len(row.choices) - 1)]
    low, high = (row.low - 0.5, row.high + 0.5) if row.whole else (row.low, row.high)
    if row.log:
        low, high = math.log(low), math.log(high)
    value = low + share * (high - low)
    value = math.exp(value) if row.log else value
    clipped = min(max(round(value) if row.whole else value, row.low), row.high)
    return int(clipped) if row.whole else float(clipped)


def grid_space(space: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """The part of the frozen space that is recorded in full: each parameter with a few choices, or with one."""
    free = {"policy", "hidden_units", "optimizer", "backbone"}
    fixed = {"learning_rate": LEARNING_RATES, "views": (N_VIEWS,)}
    return tuple(
        row if row.name in free else Parameter(row.name, row.meaning, row.start, fixed.get(row.name, (row.start,)))
        for row in space
    )


def grid_points(space: Sequence[Parameter]) -> list[Point]:
    """Every point of `grid_space`."""
    rows = grid_space(space)
    values = itertools.product(*(row.choices for row in rows))
    names = [row.name for row in rows]
    return [Point(GRID, number, dict(zip(names, each, strict=True))) for number, each in enumerate(values)]


def frozen_design(space: Sequence[Parameter], n_sobol: int) -> Iterator[Point]:
    """The points of a frozen space in the order of recording; a recording that stops early has some of everything."""
    starts = [
        Point("start", number, starting_point(space, backbone)) for number, backbone in enumerate(space[0].choices)
    ]
    sobol, grid = sobol_points(space, n_sobol), grid_points(space)
    half = len(sobol) // 2
    return itertools.chain(starts, sobol[:half], grid, sobol[half:])
