"""Conversion of the search space to distributions of Optuna."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from bhsearch.objectives.space import Parameter


def distribution(parameter: Parameter) -> BaseDistribution:
    """Return the distribution of a parameter."""
    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    if parameter.whole:
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
