"""Optuna's samplers, made anew for each trial so that a study that was stopped goes on as it would have gone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

_N_CANDIDATES = 64  # points that TPE chooses the next one from


def _random(seed: int, _: int, __: int) -> BaseSampler:
    return RandomSampler(seed)


def _tpe(seed: int, _: int, __: int) -> BaseSampler:
    # Parameter by parameter: over recorded trials it came nearer to the best, and sooner, than their joint density.
    return TPESampler(seed=seed, multivariate=False, constant_liar=True, n_ei_candidates=_N_CANDIDATES)


class _Sequence(QMCSampler):
    """One sequence for the whole study, whose place is the number of trials done.

    Optuna's own place in it moves on with trials that were interrupted, and is lost when a study grows.
    """

    place: int

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:  # noqa: ARG002
        return self.place


def _qmc(seed: int, study_seed: int, done: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # its interface may change; our bounds on Optuna hold it
        # What the sequence cannot serve, choices by name, is drawn at random.
        sampler = _Sequence(
            scramble=True,
            seed=study_seed % 2**32,
            independent_sampler=RandomSampler(seed),
            warn_independent_sampling=False,
        )
    sampler.place = done
    return sampler


class _CmaEs(CmaEsSampler):
    """Adds the number of trials done to the seed; Optuna adds the trial's number, which interrupted trials move."""

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


# A sampler from its own seed, the study's seed, and the number of trials done.
SAMPLERS: dict[str, Callable[[int, int, int], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "qmc": _qmc,
    "cmaes": _cmaes,
}

# Samplers that learn from what they have seen begin with a sound point for each backbone; the others are what they say.
LEARNING = ("tpe", "cmaes")
