"""Samplers of Optuna.

A sampler is created for each trial, from seeds and the number of trials alone, so that a resumed study samples the
points that an uninterrupted one would have sampled.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial


class Sampler(Protocol):
    """A factory of samplers. Another package offers one by an entry point in `bhsearch.samplers`."""

    @property
    def learns(self) -> bool:
        """Whether the sampler learns from earlier trials: then the study begins with a sound point per backbone."""

    def __call__(self, seed: int, study_seed: int, n_done: int) -> BaseSampler:
        """Create the sampler of one trial.

        Args:
            seed: Random seed of this trial.
            study_seed: Random seed of the study.
            n_done: Trials before this one; interrupted trials and those that will be retried do not count.
        """


_N_CANDIDATES = 64  # candidates of TPE for each parameter


def _random(seed: int, _: int, __: int) -> BaseSampler:
    return RandomSampler(seed)


def _tpe(seed: int, _: int, __: int) -> BaseSampler:
    # Univariate: over recorded trials it found better points, and earlier, than the multivariate estimator.
    return TPESampler(seed=seed, multivariate=False, constant_liar=True, n_ei_candidates=_N_CANDIDATES)


class _Sequence(QMCSampler):
    """A quasi-random sequence whose position is the number of earlier trials.

    Optuna's own position counts interrupted trials, and is lost when backbones are added to a study.
    """

    place: int

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:  # noqa: ARG002
        return self.place


def _qmc(seed: int, study_seed: int, done: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the pinned version of Optuna has it
        # The sequence covers numbers only; categorical parameters are sampled at random.
        sampler = _Sequence(
            scramble=True,
            seed=study_seed % 2**32,
            independent_sampler=RandomSampler(seed),
            warn_independent_sampling=False,
        )
    sampler.place = done
    return sampler


class _CmaEs(CmaEsSampler):
    """CMA-ES whose seed depends on the number of earlier trials; Optuna's counts interrupted trials, too."""

    done: int

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        counted = copy.copy(trial)
        counted.number = self.done
        return super().sample_relative(study, counted, search_space)


def _cmaes(seed: int, study_seed: int, done: int) -> BaseSampler:
    sampler = _CmaEs(seed=seed, independent_sampler=_tpe(seed, study_seed, done))
    sampler.done = done
    return sampler


@dataclass(frozen=True)
class _BuiltIn:
    """A sampler of Optuna with the arguments that bhsearch gives it."""

    make: Callable[[int, int, int], BaseSampler]
    learns: bool

    def __call__(self, seed: int, study_seed: int, n_done: int) -> BaseSampler:
        return self.make(seed, study_seed, n_done)


TPE = _BuiltIn(_tpe, learns=True)
RANDOM = _BuiltIn(_random, learns=False)
QMC = _BuiltIn(_qmc, learns=False)
CMAES = _BuiltIn(_cmaes, learns=True)
