"""Costs of trials in the frozen regime, as far as they are known before the trials: the features of views."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.objectives.space import Parameter, Params

Pair = tuple[str, str]  # backbone and view
DETERMINE_FEATURES = ("backbone", "policy", "views")  # parameters that determine the features of a trial


@dataclass(frozen=True)
class FeatureCosts:
    """Costs of features when a study begins. An engine stores them with the study, so that they never change.

    Attributes:
        seconds: Expected seconds of computing the features of one view of all development images, by backbone.
        cached: Views whose features were in the cache, by backbone.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    cached: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> FeatureCosts:
        """Return the costs from a JSON-compatible record; see `to_record`."""
        cached = {backbone: tuple(views) for backbone, views in record.get("cached", {}).items()}
        return cls(dict(record.get("seconds", {})), cached)

    def to_record(self) -> dict[str, Any]:
        """Return the costs as a JSON-compatible record."""
        return {
            "seconds": {backbone: round(seconds, 4) for backbone, seconds in self.seconds.items()},
            "cached": {backbone: list(views) for backbone, views in self.cached.items()},
        }

    def with_backbones_of(self, other: FeatureCosts) -> FeatureCosts:
        """Return the costs, with those of backbones that are only in `other`."""
        return FeatureCosts({**other.seconds, **self.seconds}, {**other.cached, **self.cached})


def expected_seconds(
    costs: FeatureCosts, space: Sequence[Parameter], trials: Sequence[Params], n_more: int
) -> dict[str, float]:
    """Return the seconds that features are expected to take in the next trials, by backbone.

    The expectation assumes that backbone, policy and number of views are drawn uniformly. A search that learns needs
    fewer features, because it returns to the best ones.

    Args:
        costs: Costs of features when the study began.
        space: Parameters of a frozen study.
        trials: Parameters of earlier and running trials, whose features are cached.
        n_more: Number of further trials.
    """
    choices = [next(row.choices for row in space if row.name == name) for name in DETERMINE_FEATURES]
    pairs = [pairs_of(dict(zip(DETERMINE_FEATURES, values, strict=True))) for values in itertools.product(*choices)]
    needed = Counter(pair for each in pairs for pair in each)
    cached = computed_pairs(trials) | {(name, view) for name, views in costs.cached.items() for view in views}
    seconds = dict.fromkeys(choices[0], 0.0)
    for pair, count in needed.items():
        if pair not in cached:
            seconds[pair[0]] += costs.seconds[pair[0]] * (1 - (1 - count / len(pairs)) ** n_more)
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


def pairs_of(params: Params) -> set[Pair]:
    """Return the backbone and view of all features that a trial of the frozen regime needs."""
    return {(params["backbone"], view) for view in views_of(params["policy"], params["views"])}


def computed_pairs(trials: Iterable[Params]) -> set[Pair]:
    """Return the backbone and view of all features that some trials need.

    A process that is killed while it samples leaves a trial without some of its parameters, which computed nothing.
    """
    return {pair for params in trials if params.keys() >= set(DETERMINE_FEATURES) for pair in pairs_of(params)}
