"""A sampler that does not propose a point of a finite space twice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from bhsearch.objectives.space import Parameter, Params, effective

_REDRAWS = 20  # of a choice, before the first open one is taken


class TriedPoints:
    """The points of a finite space that were tried, as an array with an axis for each parameter.

    Points that differ only in parameters without effect, see `effective`, are tried together.

    Args:
        space: Parameters of the study, in the order in which they are sampled.
    """

    def __init__(self, space: Sequence[Parameter]) -> None:
        self.values = {row.name: row.choices or (row.values if row.step else ()) for row in space}
        self._places = {name: {value: n for n, value in enumerate(row)} for name, row in self.values.items()}
        self._tried = np.zeros([len(row) for row in self.values.values()] if self.is_finite else 0, np.bool_)
        self._is_empty = True
        self.closed: frozenset[tuple[str, Any]] = frozenset()

    @property
    def is_finite(self) -> bool:
        """Whether the space is finite."""
        return all(self.values.values())

    def __bool__(self) -> bool:
        """Whether the space is finite and some point was tried."""
        return self.is_finite and not self._is_empty

    def copy(self) -> TriedPoints:
        """Return a copy that does not change with the original."""
        other = copy.copy(self)
        other._tried = self._tried.copy()
        return other

    def add(self, params: Params) -> None:
        """Add the point of a trial; it has none if not all of its parameters were sampled."""
        self._is_empty = False
        if not self or not self.values.keys() <= params.keys():
            return
        kept = effective(params)
        place = [self._places[name].get(kept[name]) if name in kept else slice(None) for name in self.values]
        if None not in place:  # a user may enqueue a value that is not in the space
            self._tried[tuple(place)] = True

    def close(self, name: str, values: Iterable[Any]) -> None:
        """Close values of a parameter: their points count as tried, and they are not drawn even if all points were.

        Args:
            name: Name of the parameter.
            values: Choices of the parameter, but not all of them.
        """
        for value in values:
            place = [self._places[name][value] if other == name else slice(None) for other in self.values]
            self._tried[tuple(place)] = True
            self._is_empty = False
            self.closed |= {(name, value)}

    def untried(self, params: Params) -> Iterator[Params]:
        """Yield the points that were not tried.

        Args:
            params: Values of the first parameters, which the points must have.
        """
        names = list(self.values)
        for places in np.argwhere(~self._below(params)):
            rest = names[len(names) - len(places) :]
            yield params | {name: self.values[name][place] for name, place in zip(rest, places, strict=True)}

    def has_untried(self, params: Params) -> bool:
        """Return whether some point was not tried; see `untried`."""
        return not self._below(params).all()

    def _below(self, params: Params) -> npt.NDArray[np.bool_]:
        """Return whether the points with some first parameters were tried, with an axis for each further parameter."""
        place = [self._places[name].get(value) for name, value in zip(self.values, params.values(), strict=False)]
        if None in place:  # no point with a value that is not in the space was tried
            return np.zeros(self._tried.shape[len(place) :], np.bool_)
        found: npt.NDArray[np.bool_] = self._tried[tuple(place)]
        return np.asarray(found)


class UntriedSampler(BaseSampler):
    """A sampler that replaces a value if all points with this value, and the ones sampled before it, were tried.

    Only finite spaces are affected. In these, samplers that learn return to the best point again and again, and such
    trials would be wasted.

    Args:
        sampler: Sampler that proposes the values.
        tried: Points of earlier and running trials.
        allows: Returns whether a point may be proposed; the others count as tried while there is a point that may.
    """

    def __init__(
        self,
        sampler: BaseSampler,
        tried: TriedPoints,
        allows: Callable[[Params], bool] | None = None,
    ) -> None:
        self._sampler, self._tried, self._allows = sampler, tried, allows
        self._proposed: dict[str, Any] = {}

    def __str__(self) -> str:
        return str(self._sampler)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See `optuna.samplers.BaseSampler`."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample values together; in a finite space they are checked later, one by one, by `sample_independent`."""
        values = self._sampler.sample_relative(study, trial, search_space)
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
            value = self._sampler.sample_independent(study, trial, param_name, param_distribution)
        if not self._tried or self._is_open(trial, param_name, value):
            return value
        others = [each for each in self._tried.values[param_name] if self._is_open(trial, param_name, each)]
        if not others and self._allows is not None:
            self._allows = None
            return self.sample_independent(study, trial, param_name, param_distribution)
        if not others and (param_name, value) in self._tried.closed:
            others = [each for each in self._tried.values[param_name] if (param_name, each) not in self._tried.closed]
        if others and isinstance(param_distribution, FloatDistribution):
            # Of two values at the same distance, the larger one is taken.
            return min(others, key=lambda each: (abs(each - value), -each))
        for _ in range(_REDRAWS if others else 0):
            value = self._sampler.sample_independent(study, trial, param_name, param_distribution)
            if value in others:
                return value
        return others[0] if others else value

    def _is_open(self, trial: FrozenTrial, name: str, value: Any) -> bool:
        """Return whether some point with this value and the values that were sampled before was not tried."""
        sampled = {each: trial.params[each] for each in self._tried.values if each in trial.params}
        point = {**sampled, name: value}
        if self._allows is None:
            return self._tried.has_untried(point)
        return any(map(self._allows, self._tried.untried(point)))

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
