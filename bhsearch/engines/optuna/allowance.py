"""A rule for studies whose budget is too small for all features: new features are paid for by earlier trials."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bhsearch.objectives.costs import (
    NO_JOINTS,
    OF_IMAGE,
    FeatureCosts,
    Pair,
    computed_pairs,
    names_that_determine,
    pairs_of,
)
from bhsearch.objectives.joint import Joints, backbones_of
from bhsearch.objectives.space import Parameter, Params

TRIALS_PER_VIEW = 2


class Allowance:
    """A predicate that returns whether a trial of a frozen study may be proposed, given the features that it needs.

    A trial that needs no new features may always be proposed. New features may be computed in these cases:

    - The backbone has no features but those of the images themselves, and the trial needs one further view.
    - The earlier trials have paid for the features. Each pays for half of a view of a backbone with average speed. A
      view of a slower backbone costs more, and the images themselves cost nothing.

    More than the smallest number of views of a policy requires that the smallest number has been tried. All features
    count as new at the beginning of the study, so that proposals do not depend on the content of the cache.

    Args:
        space: Parameters of the study.
        tried: Parameters of earlier and running trials.
        costs: Costs of features when the study began; a view costs the same for all backbones if they are empty.
        seconds_left: Seconds that new features may take at most.
        joints: Joined backbones by name of the joint one, which needs the features of all of them.

    Source:
        Ours; see `experiments/benchmarks/engines.md`. Lee et al. 2020 ("Cost-aware Bayesian optimization") divide the
        expected improvement by the cost, to a power that falls as the budget is used.
    """

    def __init__(
        self,
        space: Sequence[Parameter],
        tried: Sequence[Params],
        costs: FeatureCosts,
        seconds_left: float = math.inf,
        joints: Joints = NO_JOINTS,
    ) -> None:
        self._shifts = bool(costs.shifted)
        self._names = names_that_determine(self._shifts)
        choices = {row.name: row.choices for row in space if row.name in self._names}
        self._applies = len(choices) == len(self._names)
        if not self._applies:
            return
        self._costs, self._seconds_left, self._joints = costs, seconds_left, joints
        self._fewest = min(choices["views"])
        backbones, _ = backbones_of(space)
        self._mean = sum(costs.seconds.get(backbone, 0.0) for backbone in backbones) / len(backbones)
        self._computed = computed_pairs(tried, self._shifts, joints)
        self._augmented = {backbone for backbone, view in self._computed if view not in OF_IMAGE}
        self._left = len(tried) / TRIALS_PER_VIEW - self._cost(self._computed)
        self._known: dict[tuple[object, ...], bool] = {}

    def __call__(self, params: Params) -> bool:
        """Return whether a trial may be proposed."""
        if not self._applies:
            return True
        key = tuple(params[name] for name in self._names)
        if key not in self._known:
            self._known[key] = self._may_compute(params)
        return self._known[key]

    def _may_compute(self, params: Params) -> bool:
        new = pairs_of(params, self._shifts, self._joints) - self._computed
        smaller = pairs_of({**params, "views": self._fewest}, self._shifts, self._joints)
        if new and params["views"] > self._fewest and not smaller <= self._computed:
            return False
        if new and sum(map(self._costs.seconds_of, new)) > self._seconds_left:
            return False
        return self._cost(new) <= max(self._left, 0.0) or not self._augmented & {backbone for backbone, _ in new}

    def _cost(self, pairs: set[Pair]) -> float:
        further = [pair for pair in pairs if pair[1] not in OF_IMAGE]
        if not self._costs.seconds:
            return float(len(further))
        return sum(self._costs.seconds_of(pair) / self._mean for pair in further)
