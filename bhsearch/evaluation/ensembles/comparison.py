"""The rule by which an ensemble is proposed in place of the best single trial."""

from __future__ import annotations

from dataclasses import dataclass

from bhsearch.evaluation.bootstrap import difference_interval
from bhsearch.evaluation.metrics import score
from bhsearch.evaluation.predictions import Predictions
from bhsearch.tasks.base import Task


@dataclass(frozen=True)
class Comparison:
    """Comparison of an ensemble with the best single trial, on out-of-fold predictions.

    Attributes:
        difference: Score of the ensemble minus score of the trial.
        low: Lower end of the paired 95 % confidence interval of the difference, from a bootstrap over groups of cases.
        high: Upper end of this interval.
    """

    difference: float
    low: float
    high: float

    @property
    def is_proposed(self) -> bool:
        """Whether the ensemble is proposed: the lower end of the interval is above 0."""
        return self.low > 0


def compare(ensemble: Predictions, trial: Predictions, task: Task, n_draws: int = 1000, seed: int = 0) -> Comparison:
    """Compare an ensemble with a trial.

    The trial is the best of a search, so that its score is too high by the selection. The comparison is therefore
    conservative: an ensemble that is as good as the trial on other cases scores lower out of fold.

    Args:
        ensemble: Out-of-fold predictions of the ensemble; see `fit_ensemble`.
        trial: Out-of-fold predictions of the trial, of the same images and folds.
        task: Task that names the score.
        n_draws: Number of bootstrap samples, 1 or more.
        seed: Random seed of the bootstrap.
    """
    low, high = difference_interval(ensemble, trial, task, n_draws, seed)
    return Comparison(score(ensemble, task) - score(trial, task), low, high)
