"""Importances of hyperparameters (fANOVA), and their uncertainty by the bootstrap over trials."""

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

N_RESAMPLES = 10  # each takes 0.1 s with 50 trials, almost 1 s with 500
_LEAST = 10  # different scores from which importances are computed
_Z = 1.96  # half-width of a 95 % interval in standard deviations


def shares_of(trials: Sequence[Trial], space: Sequence[Parameter], least: int = _LEAST) -> dict[str, float]:
    """Return the fraction of the score's variance explained by each parameter (fANOVA), largest first.

    Args:
        trials: Trials of the study; only complete ones are used.
        space: Parameters of the study.
        least: Minimum number of different scores.

    Returns:
        Importance by parameter name; the importances sum to 1. Empty if there are fewer than `least` different scores.
    """
    complete = _complete(trials, least)
    if not complete:
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


def _complete(trials: Sequence[Trial], least: int) -> list[Trial]:
    """Return the complete trials; none if they have fewer than `least` different scores."""
    complete = [trial for trial in trials if trial.state == COMPLETE and trial.value is not None]
    return complete if len({trial.value for trial in complete}) >= least else []


def importance_spread(
    trials: Sequence[Trial], space: Sequence[Parameter], progress: Progress | None = None, seed: int = 0
) -> dict[str, float]:
    """Return the half-width of the 95 % bootstrap interval of each importance, here called its spread.

    Trials are resampled with replacement, and the importances of every resample are computed with `shares_of`. An
    importance that is not larger than its spread cannot be distinguished from 0.

    Args:
        trials: Trials of the study; only complete ones are used.
        space: Parameters of the study.
        progress: Called with the number of finished resamples and the number of all resamples.
        seed: Random seed of the resampling.

    Returns:
        Spread by parameter name, at least 0, in the unit of the importance. Empty if `shares_of` returns an empty dict.
    """
    complete = _complete(trials, _LEAST)
    if not complete:
        return {}
    random = np.random.default_rng(seed)
    found: list[dict[str, float]] = []
    for done in range(1, N_RESAMPLES + 1):
        drawn = [complete[place] for place in random.integers(len(complete), size=len(complete))]
        shares = shares_of(drawn, space, least=2)
        if shares:  # empty if all drawn trials have the same score
            found.append(shares)
        if progress is not None:
            progress(done, N_RESAMPLES)
    names = sorted({name for shares in found for name in shares})
    return {name: _Z * float(np.std([shares.get(name, 0.0) for shares in found], ddof=1)) for name in names}
