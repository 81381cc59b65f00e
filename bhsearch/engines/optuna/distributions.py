"""The space in Optuna's words."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from bhsearch.objectives.space import Parameter


def distribution(parameter: Parameter) -> BaseDistribution:
    """A row of the space in Optuna's words."""
    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    if parameter.whole:
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
