"""Importances of parameters, and their uncertainty over resampled trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import optuna

from bhsearch.data.images.pixel_cache import Progress
from bhsearch.engines.optuna.distributions import distribution
from bhsearch.states import COMPLETE

if TYPE_CHECKING:
    from bhsearch.engines.base import Trial
    from bhsearch.objectives.space import Parameter

N_RESAMPLES = 20
_N_OF_MANY = 10  # resamples of more than `_MANY` trials, each of which takes most of a second
_MANY = 100
_Z = 1.96  # half of a 95 % interval, in standard deviations


def shares_of(trials: Sequence[Trial], space: Sequence[Parameter], least: int = 10) -> dict[str, float]:
    """Return the share of the score's variance that each parameter explains (fANOVA), largest first.

    Args:
        trials: All trials; complete ones count.
        space: Of the study.
        least: Different scores that there must be.

    Returns:
        By parameter; they sum to 1. Empty with fewer different scores.
    """
    complete = [trial for trial in trials if trial.state == COMPLETE and trial.value is not None]
    if len({trial.value for trial in complete}) < least:
        return {}
    distributions = {parameter.name: distribution(parameter) for parameter in space}
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            optuna.trial.create_trial(params=dict(trial.params), distributions=distributions, value=trial.value)
            for trial in complete
        ]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=16, max_depth=16, seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def importance_spread(
    trials: Sequence[Trial], space: Sequence[Parameter], progress: Progress | None = None, seed: int = 0
) -> dict[str, float]:
    """Return half the width of the 95 % interval of each importance over resampled trials.

    Trials are drawn with replacement, and the importances of every draw computed as those of the study are (fANOVA).
    An importance that is not larger than its spread says nothing.

    Args:
        trials: All trials; complete ones count.
        space: Of the study.
        progress: Called with resamples done and their number.
        seed: Of the draws.

    Returns:
        By parameter, 0 or more, in units of the importance. Empty where the importances themselves are unknown.
    """
    complete = [trial for trial in trials if trial.state == COMPLETE and trial.value is not None]
    if not shares_of(complete, space):
        return {}
    n_resamples = _N_OF_MANY if len(complete) > _MANY else N_RESAMPLES
    random = np.random.default_rng(seed)
    found: list[dict[str, float]] = []
    for done in range(1, n_resamples + 1):
        drawn = [complete[place] for place in random.integers(len(complete), size=len(complete))]
        shares = shares_of(drawn, space, least=2)
        if shares:  # a draw of one score only has none
            found.append(shares)
        if progress is not None:
            progress(done, n_resamples)
    names = sorted({name for shares in found for name in shares})
    return {name: _Z * float(np.std([shares.get(name, 0.0) for shares in found], ddof=1)) for name in names}
