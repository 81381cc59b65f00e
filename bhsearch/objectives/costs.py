"""Costs of trials in the frozen regime, as far as they are known before the trials: the features of views."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.objectives.joint import Joints, backbones_of
from bhsearch.objectives.space import Parameter, Params

Pair = tuple[str, str]  # backbone and view, or backbone and `SHIFTED` with a view
DETERMINE_FEATURES = ("backbone", "policy", "views")  # parameters that determine the features of a trial
SHIFTED = "shifted "  # before the name of a view: the view under all shifts of `--score-weight-shift`
NO_JOINTS: Joints = {}
OF_IMAGE = (IDENTITY, SHIFTED + IDENTITY)  # views of the image itself


@dataclass(frozen=True)
class FeatureCosts:
    """Costs of features when a study begins. An engine stores them with the study, so that they never change.

    Attributes:
        seconds: Expected seconds of computing the features of one view of all development images, by backbone.
        cached: Views whose features were in the cache, by backbone.
        shifted: Expected seconds of computing the features of one view under all shifts that count in the score, by
            backbone; empty if no shift does.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    cached: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shifted: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> FeatureCosts:
        """Return the costs from a JSON-compatible record; see `to_record`."""
        cached = {backbone: tuple(views) for backbone, views in record.get("cached", {}).items()}
        return cls(dict(record.get("seconds", {})), cached, dict(record.get("shifted", {})))

    def to_record(self) -> dict[str, Any]:
        """Return the costs as a JSON-compatible record."""
        return {
            "seconds": {backbone: round(seconds, 4) for backbone, seconds in self.seconds.items()},
            "cached": {backbone: list(views) for backbone, views in self.cached.items()},
            "shifted": {backbone: round(seconds, 4) for backbone, seconds in self.shifted.items()},
        }

    def with_backbones_of(self, other: FeatureCosts) -> FeatureCosts:
        """Return the costs, with those of backbones that are only in `other`."""
        return FeatureCosts(
            {**other.seconds, **self.seconds}, {**other.cached, **self.cached}, {**other.shifted, **self.shifted}
        )

    def seconds_of(self, pair: Pair) -> float:
        """Return the expected seconds of computing the features of a backbone and a view; 0 if unknown."""
        backbone, view = pair
        return (self.shifted if view.startswith(SHIFTED) else self.seconds).get(backbone, 0.0)


def expected_seconds(
    costs: FeatureCosts, space: Sequence[Parameter], trials: Sequence[Params], n_more: int
) -> dict[str, float]:
    """Return the seconds that features are expected to take in the next trials, by backbone.

    The expectation assumes that backbone, policy, number of views and test-time augmentation are drawn uniformly. A
    search that learns needs fewer features, because it returns to the best ones. Joint backbones are left out, since
    they use the features of the others.

    Args:
        costs: Costs of features when the study began.
        space: Parameters of a frozen study.
        trials: Parameters of earlier and running trials, whose features are cached.
        n_more: Number of further trials.
    """
    shifts = bool(costs.shifted)
    names = names_that_determine(shifts)
    choices = [next(row.choices for row in space if row.name == name) for name in names]
    choices[0] = tuple(backbones_of(space)[0])
    pairs = [pairs_of(dict(zip(names, values, strict=True)), shifts) for values in itertools.product(*choices)]
    needed = Counter(pair for each in pairs for pair in each)
    cached = computed_pairs(trials, shifts) | {(name, view) for name, views in costs.cached.items() for view in views}
    seconds = dict.fromkeys(choices[0], 0.0)
    for pair, count in needed.items():
        if pair not in cached:
            seconds[pair[0]] += costs.seconds_of(pair) * (1 - (1 - count / len(pairs)) ** n_more)
    return seconds


def rationed_seconds(
    left: float,
    costs: FeatureCosts,
    space: Sequence[Parameter],
    trials: Sequence[Params],
    n_more: int,
    seconds_per_head: float,
) -> float:
    """Return the seconds that the features of the next trial may take: the rest of a budget, or infinity.

    The result is infinity while the budget is expected to suffice for all further trials, whatever features they need.

    Args:
        left: Seconds of the budget that are left; infinity without a budget.
        costs: Costs of features when the study began.
        space: Parameters of a frozen study.
        trials: Parameters of earlier and running trials.
        n_more: Number of further trials.
        seconds_per_head: Seconds of a trial whose features are cached.
    """
    if math.isinf(left) or not costs.seconds:
        return left
    needed = sum(expected_seconds(costs, space, trials, n_more).values()) + n_more * seconds_per_head
    return math.inf if needed <= left else left


def names_that_determine(shifts: bool) -> tuple[str, ...]:
    """Return the names of the parameters that determine the features of a trial.

    Args:
        shifts: Whether shifts count in the score. Shifted images are predicted only in the views that are averaged.
    """
    return (*DETERMINE_FEATURES, "tta") if shifts else DETERMINE_FEATURES


def pairs_of(params: Params, shifts: bool = False, joints: Joints = NO_JOINTS) -> set[Pair]:
    """Return the backbone and view of all features that a trial of the frozen regime needs.

    Args:
        params: Parameters of the trial, at least `names_that_determine(shifts)`.
        shifts: Whether shifts count in the score.
        joints: Joined backbones by name of the joint one, which needs the features of all of them.
    """
    views = views_of(params["policy"], params["views"])
    averaged = () if not shifts else views if params["tta"] else views[:1]
    backbones = joints.get(params["backbone"], (params["backbone"],))
    needed = (*views, *(SHIFTED + view for view in averaged))
    return {(backbone, view) for backbone in backbones for view in needed}


def computed_pairs(trials: Iterable[Params], shifts: bool = False, joints: Joints = NO_JOINTS) -> set[Pair]:
    """Return the backbone and view of all features that some trials need.

    A process that is killed while it samples leaves a trial without some of its parameters, which computed nothing.

    Args:
        trials: Parameters of the trials.
        shifts: Whether shifts count in the score.
        joints: Joined backbones by name of the joint one.
    """
    names = set(names_that_determine(shifts))
    return {pair for params in trials if params.keys() >= names for pair in pairs_of(params, shifts, joints)}
