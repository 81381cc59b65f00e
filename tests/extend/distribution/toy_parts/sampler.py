"""A sampler of Optuna: uniform, from a seed of its own."""

from __future__ import annotations

from optuna.samplers import BaseSampler, RandomSampler


class UniformSampler:
    """Samples all parameters independently and uniformly."""

    learns = False

    def __call__(self, seed: int, study_seed: int, n_done: int) -> BaseSampler:
        return RandomSampler((seed + 1) % 2**32)


SAMPLER = UniformSampler()
