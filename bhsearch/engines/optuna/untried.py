"""A sampler that does not propose a point of a finite space twice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from bhsearch.objectives.space import Parameter, Params, effective

_REDRAWS = 20  # of a choice, before the first open one is taken


class _ReadOnce:
    """A study whose trials are read from the storage once for all parameters of a trial.

    TPE would read them again for each parameter, to see the parameters of trials that run at the same time. These
    matter no more while one trial is sampled than the trials that begin a moment later.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: tuple[TrialState, ...] | None = None,
        use_cache: bool = False,  # noqa: ARG002
    ) -> list[FrozenTrial]:
        return self._study._get_trials(deepcopy, states, use_cache=True)


class UntriedSampler(BaseSampler):
    """A sampler that replaces a value if all points with this value, and the ones sampled before it, were tried.

    Only finite spaces are affected. In these, samplers that learn return to the best point again and again, and such
    trials would be wasted.

    Args:
        sampler: Sampler that proposes the values.
        space: Parameters of the study, in the order in which they are sampled.
        tried: Parameter sets of earlier and running trials.
        allows: Returns whether a point may be proposed; the others count as tried while there is a point that may.
    """

    def __init__(
        self,
        sampler: BaseSampler,
        space: Sequence[Parameter],
        tried: Iterable[Params],
        allows: Callable[[Params], bool] | None = None,
    ) -> None:
        self._sampler = sampler
        self._values = {row.name: row.choices or (row.values if row.step else ()) for row in space}
        self._allows = allows
        self._proposed: dict[str, Any] = {}
        self._tried = {_key(params) for params in tried} if all(self._values.values()) else set()

    def __str__(self) -> str:
        return str(self._sampler)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See `optuna.samplers.BaseSampler`."""
        return self._sampler.infer_relative_search_space(_read_once(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample values together; in a finite space they are checked later, one by one, by `sample_independent`."""
        values = self._sampler.sample_relative(_read_once(study), trial, search_space)
        if not self._tried:
            return values
        self._proposed = values
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample a value of which some point was not tried, if there is one."""
        value: Any = self._proposed.get(param_name)
        if value is None:
            value = self._sampler.sample_independent(_read_once(study), trial, param_name, param_distribution)
        if not self._tried or self._is_open(trial, param_name, value):
            return value
        others = [each for each in self._values[param_name] if self._is_open(trial, param_name, each)]
        if not others and self._allows is not None:
            self._allows = None
            return self.sample_independent(study, trial, param_name, param_distribution)
        if others and isinstance(param_distribution, FloatDistribution):
            # Of two values at the same distance, the larger one is taken.
            return min(others, key=lambda each: (abs(each - value), -each))
        for _ in range(_REDRAWS if others else 0):
            value = self._sampler.sample_independent(_read_once(study), trial, param_name, param_distribution)
            if value in others:
                return value
        return others[0] if others else value

    def _is_open(self, trial: FrozenTrial, name: str, value: Any) -> bool:
        """Return whether some point with this value and the values that were sampled before was not tried."""
        names = list(self._values)
        later = names[names.index(name) + 1 :]
        point = {**trial.params, name: value}
        rests = itertools.product(*(self._values[each] for each in later))
        points = (point | dict(zip(later, rest, strict=True)) for rest in rests)
        return any((self._allows is None or self._allows(each)) and _key(each) not in self._tried for each in points)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """See `optuna.samplers.BaseSampler`."""
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """See `optuna.samplers.BaseSampler`."""
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """See `optuna.samplers.BaseSampler`."""
        self._sampler.reseed_rng()


def _read_once(study: optuna.Study) -> optuna.Study:
    return cast(optuna.Study, _ReadOnce(study))


def _key(params: Params) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(effective(params).items()))
