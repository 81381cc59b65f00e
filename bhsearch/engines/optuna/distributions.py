"""Conversion of parameters of the search space to Optuna's distributions."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from bhsearch.objectives.space import Parameter


def distribution(parameter: Parameter) -> BaseDistribution:
    """Return a parameter's range or choices as an Optuna distribution."""
    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    if parameter.whole:
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step or None)
