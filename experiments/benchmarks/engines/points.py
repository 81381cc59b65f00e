"""The points that are recorded: every distinct trial of a frozen space, or what a random sampler draws."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from bhsearch.objectives.space import LOG10_PENALTY, Parameter, Params


@dataclass(frozen=True)
class Point:
    """A point that is to be recorded.

    Attributes:
        number: Position in the order of recording, from 0.
        params: Parameters of the trial.
    """

    number: int
    params: Params


def levelled(params: Params) -> Params:
    """Return the point that stands for all points with the same result.

    The policy `none` has a single view, so that `views` and `tta` change nothing.
    """
    return params | {"views": 2, "tta": False} if params["policy"] == "none" else params


def frozen_points(space: Sequence[Parameter]) -> list[Point]:
    """Return every distinct point of a frozen space.

    Points that differ only in `tta`, which share their heads, follow each other, and so do the penalties of one path of
    linear heads, the strongest first.
    """
    names = [row.name for row in space if row.name != "tta"] + ["tta"]
    choices = {row.name: row.choices for row in space} | {LOG10_PENALTY.name: LOG10_PENALTY.values[::-1]}
    products = itertools.product(*(choices[name] for name in names))
    points = [dict(zip(names, values, strict=True)) for values in products]
    return [Point(number, each) for number, each in enumerate(p for p in points if p == levelled(p))]
