"""Optuna's TPE over single parameters, with the work that depends only on earlier trials done once per proposal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.samplers._tpe.sampler import default_gamma
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from bhsearch.engines.optuna.observations import Observations, ObservedStudy


class IndependentTPE(TPESampler):
    """TPE that proposes what Optuna's `TPESampler` proposes with `multivariate=False` and `constant_liar=True`.

    Optuna splits the trials and builds the densities again for each value that it proposes, and evaluates the densities
    for each candidate. This class does both once per trial and parameter, and evaluates each value of a finite
    parameter once. It matters where values are redrawn, as `UntriedSampler` does, in a study with many trials.

    Args:
        seed: Random seed.
        n_candidates: Number of candidates per proposed value.
    """

    def __init__(self, seed: int, n_candidates: int) -> None:
        super().__init__(seed=seed, multivariate=False, constant_liar=True, n_ei_candidates=n_candidates)
        self._number: int | None = None  # trial that is sampled
        self._observations: Observations
        self._densities: dict[str, _Densities] = {}
        self._groups: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]] | None = None

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample a value; see `optuna.samplers.BaseSampler`."""
        if trial.number != self._number or not isinstance(study, ObservedStudy):
            self._observe(study, trial, {param_name: param_distribution})
        if self._observations.n_finished < self._n_startup_trials:
            return self._random_sampler.sample_independent(study, trial, param_name, param_distribution)
        if param_name not in self._densities:
            self._densities[param_name] = self._built(trial, param_name, param_distribution)
        densities = self._densities[param_name]
        candidates = densities.below.sample(self._rng.rng, self._n_ei_candidates)[param_name]
        best = candidates[np.argmax(densities.ratio(candidates))].item()
        return param_distribution.to_external_repr(best)

    def _observe(self, study: optuna.Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> None:
        self._number, self._densities, self._groups = trial.number, {}, None
        if isinstance(study, ObservedStudy):
            self._observations = study.observations
        else:
            self._observations = Observations(space, study.direction == StudyDirection.MAXIMIZE)
            for each in cast(Sequence[FrozenTrial], study.get_trials(deepcopy=False)):
                self._observations.put(each)

    def _built(self, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> _Densities:
        if self._groups is None:
            self._groups = self._observations.split(trial.number, default_gamma)
        below, above = (
            self._parzen_estimator_cls(
                {name: self._observations.values(name, group)}, {name: distribution}, self._parzen_estimator_parameters
            )
            for group in self._groups
        )
        return _Densities(name, distribution, below, above)


class _Densities:
    """The densities of a parameter among the good trials and among the other ones."""

    def __init__(
        self, name: str, distribution: BaseDistribution, below: _ParzenEstimator, above: _ParzenEstimator
    ) -> None:
        self._name, self.below, self._above = name, below, above
        self._is_finite = isinstance(distribution, CategoricalDistribution | IntDistribution) or (
            isinstance(distribution, FloatDistribution) and distribution.step is not None
        )
        self._known: dict[float, float] = {}

    def ratio(self, candidates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the logarithm of the ratio of the two densities. Shape of `candidates`."""
        if not self._is_finite:
            return self._compute(candidates)
        values = candidates.tolist()
        new = [value for value in dict.fromkeys(values) if value not in self._known]
        if new:
            self._known |= zip(new, self._compute(np.array(new)).tolist(), strict=True)
        return np.array([self._known[value] for value in values])

    def _compute(self, candidates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        samples = {self._name: candidates}
        return np.asarray(self.below.log_pdf(samples) - self._above.log_pdf(samples))
