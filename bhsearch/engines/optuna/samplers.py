"""Factories of Optuna's samplers.

Each trial gets a new sampler, which is determined by the seeds and by the number of earlier trials. A resumed study
therefore samples the same points as an uninterrupted study.
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
from optuna.samplers import BaseSampler, CmaEsSampler, QMCSampler, RandomSampler
from optuna.trial import FrozenTrial

from bhsearch.engines.optuna.tpe import IndependentTPE


class Sampler(Protocol):
    """A factory of samplers. Other packages register a factory as an entry point in the group `bhsearch.samplers`."""

    @property
    def learns(self) -> bool:
        """Whether the sampler learns from earlier trials; if so, each backbone is first tried at its starting point."""

    def __call__(self, seed: int, study_seed: int, n_done: int) -> BaseSampler:
        """Create the sampler of one trial.

        Args:
            seed: Random seed of this trial.
            study_seed: Random seed of the study.
            n_done: Number of earlier and running trials, without interrupted trials and trials that will be retried.
        """


_N_CANDIDATES = 64  # number of candidates that TPE draws per parameter


def _random(seed: int, _: int, __: int) -> BaseSampler:
    return RandomSampler(seed)


def _tpe(seed: int, _: int, __: int) -> BaseSampler:
    # On recorded trials, the univariate estimator found better points, and found them earlier, than the multivariate.
    return IndependentTPE(seed, _N_CANDIDATES)


class _Sequence(QMCSampler):
    """A quasi-Monte Carlo sampler whose position in the sequence is the number of earlier trials.

    The position that Optuna keeps also counts interrupted trials, and is lost when backbones are added to a study.
    """

    place: int

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:  # noqa: ARG002
        return self.place


def _qmc(seed: int, study_seed: int, done: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the interface is stable within the pinned versions
        # The sequence covers numerical parameters only; categorical parameters are sampled at random.
        sampler = _Sequence(
            scramble=True,
            seed=study_seed % 2**32,
            independent_sampler=RandomSampler(seed),
            warn_independent_sampling=False,
        )
    sampler.place = done
    return sampler


class _CmaEs(CmaEsSampler):
    """A CMA-ES sampler that derives its seed from the number of earlier trials without interrupted trials.

    Optuna derives the seed from the trial number, which also counts interrupted trials.
    """

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
    """A `Sampler` that creates one of Optuna's samplers."""

    make: Callable[[int, int, int], BaseSampler]
    learns: bool

    def __call__(self, seed: int, study_seed: int, n_done: int) -> BaseSampler:
        return self.make(seed, study_seed, n_done)


TPE = _BuiltIn(_tpe, learns=True)
RANDOM = _BuiltIn(_random, learns=False)
QMC = _BuiltIn(_qmc, learns=False)
CMAES = _BuiltIn(_cmaes, learns=True)
