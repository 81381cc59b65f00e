"""The score of a nested search: the whole search is repeated in the training part of each fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, interval
from bhsearch.evaluation.metrics import score
from bhsearch.text import plural

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import Predictions
    from bhsearch.tasks import Task

NESTED_NOTE = (
    "A nested search scores how trials are chosen, not one trial: the search of each fold may have chosen another one. "
    "It is not optimistic, but each search had fewer cases. Its interval is of the cases alone, and too narrow."
)


@dataclass(frozen=True)
class NestedScore:
    """The score of a nested search, in which no validation image influences the choice of the trial that predicts it.

    Attributes:
        score: Score of the predictions of all folds: the mean of the task's metric over folds, with equal weight for
            every case.
        low: Lower end of the 95 % confidence interval of `score`, from the bootstrap over groups of cases.
        high: Upper end of this interval.
        n_trials: Number of trials of each search.
        n_folds: Number of folds, and of searches.
    """

    score: float
    low: float
    high: float
    n_trials: int
    n_folds: int

    @classmethod
    def of(cls, predictions: Predictions, task: Task, n_trials: int) -> NestedScore:
        """Score predictions of all folds, each by the model that the search without the fold proposes.

        Args:
            predictions: These predictions.
            task: Task that names the score.
            n_trials: Number of trials of each search.
        """
        ends = interval(bootstrap_scores(predictions, group_draws(predictions.group, predictions.stratum), task))
        return cls(score(predictions, task), ends.low, ends.high, n_trials, predictions.n_folds)

    def __str__(self) -> str:
        searches = f"{self.n_folds} searches of {plural(self.n_trials, 'trial')}"
        return f"{self.score:.4f}  [{self.low:.3f} {self.high:.3f}]  {searches}"
