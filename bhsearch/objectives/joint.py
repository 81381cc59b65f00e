"""Joint backbones of a search space (`--combine`): their places in the space, and the rule that gives them a meaning.

A space has its joint backbones from the start, as choices of the parameter `backbone`. Which backbones they join is
decided once, when the starting points of all single backbones have ended, and never changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, combinations

from bhsearch.objectives.space import JOINT_NAMES, Parameter, Params, starting_points

N_JOINED = 3  # number of the best backbones, which are the only ones that are joined
Joints = Mapping[str, Sequence[str]]


def backbones_of(space: Sequence[Parameter]) -> tuple[list[str], list[str]]:
    """Return the names of the single and of the joint backbones of a space."""
    names = [str(name) for row in space if row.name == "backbone" for name in row.choices]
    return [name for name in names if name not in JOINT_NAMES], [name for name in names if name in JOINT_NAMES]


def first_points(space: Sequence[Parameter], joints: Joints) -> Iterable[Params]:
    """Yield the parameter sets that a search begins with, see `starting_points`.

    The first points of all backbones come before the second ones, and single backbones before joint ones.

    Args:
        space: Parameters of the study.
        joints: Joined backbones by name of the joint one; empty before they are decided.
    """
    single, _ = backbones_of(space)
    for names in (single, list(joints)):
        for points in zip(*(starting_points(space, name) for name in names), strict=True):
            yield from points


def decide_joints(
    space: Sequence[Parameter], ended: Sequence[tuple[Params, float | None]]
) -> dict[str, list[str]] | None:
    """Return which backbones are joined, or None if a starting point of a single backbone has not ended.

    The backbones are ranked by the score of their starting point, which has a linear head, and by name if scores are
    equal. A backbone without a score is not joined. The result does not depend on any other trial, so that all
    processes decide the same.

    Args:
        space: Parameters of the study.
        ended: Parameters and score of the trials that have ended and will not be retried, ordered by number; no score
            if the trial failed.

    Returns:
        Joined backbones, best first, by name of the joint one: the pairs of the best three, then all three. Places
        beyond the number of scored backbones are left out.
    """
    single, places = backbones_of(space)
    points = {name: starting_points(space, name) for name in single}
    if any(all(params != point for params, _ in ended) for point in chain.from_iterable(points.values())):
        return None
    scores: dict[str, float] = {}
    for name, (first, *_) in points.items():
        found = [score for params, score in ended if params == first and score is not None]
        if found:
            scores[name] = found[0]
    best = sorted(scores, key=lambda name: (-scores[name], name))[:N_JOINED]
    groups = [*combinations(best, 2), *combinations(best, 3)]
    return {place: list(group) for place, group in zip(places, groups, strict=False)}
