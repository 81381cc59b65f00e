"""The trials in a ranking, the one that a study proposes and why, and its difference to the default parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhsearch.engines.base import Trial
from bhsearch.evaluation.bootstrap import (
    Interval,
    bootstrap_auc,
    bootstrap_scores,
    difference_interval,
    group_draws,
    interval,
)
from bhsearch.evaluation.metrics import score
from bhsearch.evaluation.mixed_score import AUC_TITLE, score_title
from bhsearch.evaluation.selection.proposal import MARGIN, proposed, spread_of_differences
from bhsearch.objectives.base import MS_PER_IMAGE
from bhsearch.objectives.space import Parameter, Params, effective, starting_point
from bhsearch.states import COMPLETE

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import FloatArray, Predictions
    from bhsearch.tasks import Task

N_RACED = 5  # number of trials that are raced on further divisions
DIFFERENCE_NOTE = "paired over cases, without the correction for the search"
# Parameters that determine the cost of the deployed model, by regime.
_FROZEN_COST, _FINETUNE_COST = ("backbone", "policy", "views", "tta"), ("backbone", "image_size", "tta")


@dataclass(frozen=True)
class RankedTrial:
    """A complete trial in the ranking.

    Attributes:
        trial: Record of the trial.
        low: Lower end of the score's 95 % confidence interval, from a bootstrap over cases; nan if the predictions are
            not available.
        high: Upper end of this interval; nan if the predictions are not available.
        tied: Whether the score is statistically indistinguishable from the best score.
        proposed: Whether this is the one trial that the study proposes; see `evaluation.selection.proposal.proposed`.
        milliseconds: Inference time of the deployed model per image; inf if unknown. See `prediction_costs`.
        raced: Score over all divisions of the race (`--race-divisions`); nan if the trial was not raced.
        auc: Case-weighted AUC of unchanged images, mean over folds; nan if the predictions are not available. It is the
            score, unless shifts count in the score.
    """

    trial: Trial
    low: float
    high: float
    tied: bool
    proposed: bool = False
    milliseconds: float = np.inf
    raced: float = np.nan
    auc: float = np.nan

    @property
    def params(self) -> Params:
        """Parameters of the trial."""
        return self.trial.params

    @property
    def value(self) -> float:
        """Score of the trial: case-weighted AUC, mean over folds, or the mixed score if shifts count in it."""
        return float(self.trial.value or 0.0)

    @property
    def run_id(self) -> str:
        """Id of the trial's MLflow run; empty without tracking."""
        return str(self.trial.notes.get("mlflow_run", ""))

    def __repr__(self) -> str:
        ends = f" [{self.low:.3f} {self.high:.3f}]" if self.low == self.low else ""
        marks = f"{', tied' if self.tied else ''}{', proposed' if self.proposed else ''}"
        return f"RankedTrial(number={self.trial.number}, auc={self.value:.4f}{ends}{marks})"


def prediction_costs(trials: Sequence[Trial]) -> FloatArray:
    """Return the inference time of the deployed models of trials, in milliseconds per image.

    Trials whose deployed models differ only in their weights get the median of their times, so that the noise of a
    measurement does not decide which of them is cheaper.

    Args:
        trials: Complete trials.

    Returns:
        Times; inf if unknown. Shape (n_trials,).
    """
    measured = np.array([trial.notes.get(MS_PER_IMAGE, np.nan) for trial in trials], dtype=np.float64)
    kinds = [_deployed(trial.params) for trial in trials]
    cost = np.full(len(trials), np.inf)
    for kind in set(kinds):
        members = np.array([each == kind for each in kinds])
        known = members & np.isfinite(measured)
        if known.any():
            cost[members] = np.median(measured[known])
    return cost


def _deployed(params: Params) -> tuple[tuple[str, object], ...]:
    names = _FINETUNE_COST if "image_size" in params else _FROZEN_COST
    kept = effective(params)
    return tuple((name, kept[name]) for name in names if name in kept)


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Return the complete trials, best first; of equal scores, the first trial."""
    return sorted((t for t in trials if t.state == COMPLETE), key=lambda t: (-(t.value or 0.0), t.number))


def contenders(trials: Sequence[Trial]) -> list[Trial]:
    """Return the `N_RACED` complete trials with the best scores, best first; these are raced."""
    return best_first(trials)[:N_RACED]


def propose(scores: Mapping[int, float], samples: Mapping[int, FloatArray], costs: Mapping[int, float]) -> int:
    """Return the number of the trial that `evaluation.selection.proposal.proposed` selects; the first of several.

    Args:
        scores: Score by number of the trial; at least one.
        samples: Bootstrap scores of these trials by number, from the same draws. Shape (n_draws,) each.
        costs: Inference time per image by number, inf if unknown.
    """
    spread = spread_of_differences(np.stack([samples[number] for number in scores]))
    price = np.array([costs[number] for number in scores])
    marks = proposed(np.array(list(scores.values()))[:, None], spread, price)[:, 0]
    return min(number for number, mark in zip(scores, marks, strict=True) if mark)


def race_result(
    raced: Mapping[int, Predictions], costs: Mapping[int, float], task: Task
) -> tuple[dict[int, float], int]:
    """Return the scores of raced trials over all divisions, and the number of the trial that the rule then proposes.

    Args:
        raced: Out-of-fold predictions on all divisions, by number of the trial.
        costs: Inference time per image, by number of the trial.
        task: Task that names the score.
    """
    first = next(iter(raced.values()))
    draws = group_draws(first.group, first.stratum)
    scores = {number: score(raced[number], task) for number in sorted(raced)}
    samples = {number: bootstrap_scores(each, draws, task) for number, each in raced.items()}
    return scores, propose(scores, samples, costs)


def proposed_of(ranking: Sequence[RankedTrial]) -> RankedTrial | None:
    """Return the proposed trial of a ranking; None if no trial is complete."""
    return next((row for row in ranking if row.proposed), None)


def default_of(ranking: Sequence[RankedTrial], space: Sequence[Parameter]) -> RankedTrial | None:
    """Return the trial with the default parameters, the starting point of a backbone; None if none is complete.

    If the study ran the starting points of several backbones, this is the trial that is cheapest at prediction time; of
    equally cheap ones, the first.
    """
    starts = [row for row in ranking if _is_start(row.trial, space)]
    return min(starts, key=lambda row: (row.milliseconds, row.trial.number), default=None)


def reason_of(ranking: Sequence[RankedTrial]) -> str:
    """Return a sentence that names the trial with the best score, the proposed trial and the reason for proposing it.

    Args:
        ranking: Complete trials, best first; at least one.
    """
    best, chosen = ranking[0], next(row for row in ranking if row.proposed)
    number = chosen.trial.number
    if np.isfinite(chosen.raced):
        return _reason_of_race(ranking, chosen)
    if chosen is best:
        why = f": no cheaper trial within {MARGIN:g} is tied with it" if np.isfinite(best.low) else ""
        return f"Trial {number} has the best score and is proposed{why}."
    return (
        f"Trial {best.trial.number} has the best score, {best.value:.4f}. Trial {number} is proposed: its score, "
        f"{chosen.value:.4f}, is within {MARGIN:g} and tied with the best, and {_cheaper(best, chosen)}."
    )


def _reason_of_race(ranking: Sequence[RankedTrial], chosen: RankedTrial) -> str:
    raced = [row for row in ranking if np.isfinite(row.raced)]
    first, number = max(raced, key=lambda row: row.raced), chosen.trial.number
    said = (
        f"Trial {ranking[0].trial.number} has the best score, {ranking[0].value:.4f}. The {len(raced)} best trials "
        f"were raced on further divisions of the cases. Trial {number} is proposed: its score over all divisions, "
        f"{chosen.raced:.4f}, is"
    )
    if first.trial.number == number:
        return f"{said} the best."
    return (
        f"{said} within {MARGIN:g} of the best, {first.raced:.4f} of trial {first.trial.number}, and tied with it, and "
        f"{_cheaper(first, chosen)}."
    )


def _cheaper(best: RankedTrial, chosen: RankedTrial) -> str:
    if not np.isfinite(best.milliseconds):
        return f"it takes {chosen.milliseconds:.2g} ms an image; the cost of the best is not known"
    return f"it takes {chosen.milliseconds:.2g} instead of {best.milliseconds:.2g} ms an image"


@dataclass(frozen=True)
class DefaultComparison:
    """The difference between the proposed trial and the default parameters.

    Attributes:
        number: Number of the trial with the default parameters.
        backbone: Backbone of this trial.
        score: Score of this trial.
        difference: Score of the proposed trial minus `score`.
        low: Lower end of the 95 % interval of the difference, from a paired bootstrap over cases.
        high: Upper end of this interval.
        title: Name of the score.
    """

    number: int
    backbone: str
    score: float
    difference: float
    low: float
    high: float
    title: str = AUC_TITLE

    def __str__(self) -> str:
        return f"{self.difference:+.4f} [{self.low:+.4f} {self.high:+.4f}]"


def compare_with_default(
    ranking: Sequence[RankedTrial], predictions: Mapping[int, Predictions], space: Sequence[Parameter], task: Task
) -> DefaultComparison | None:
    """Compare the proposed trial with the default parameters of the study.

    The scores of the search selected the proposed trial, so that the difference is optimistic, like its score.

    Args:
        ranking: Complete trials.
        predictions: Out-of-fold predictions by trial number.
        space: Parameters of the study.
        task: Task that names the score.

    Returns:
        The comparison; None if no starting point is complete, or if predictions are not available.
    """
    chosen, default = proposed_of(ranking), default_of(ranking, space)
    if chosen is None or default is None:
        return None
    pair = [predictions.get(row.trial.number) for row in (chosen, default)]
    if pair[0] is None or pair[1] is None:
        return None
    low, high = difference_interval(pair[0], pair[1], task)
    return DefaultComparison(
        number=default.trial.number,
        backbone=str(default.params["backbone"]),
        score=default.value,
        difference=chosen.value - default.value,
        low=low,
        high=high,
        title=score_title(pair[0].shift_weight),
    )


def auc_interval(unchanged: Predictions) -> Interval:
    """Return the 95 % interval of the AUC of unchanged images, from a bootstrap over cases."""
    return interval(bootstrap_auc(unchanged, group_draws(unchanged.group, unchanged.stratum)))


def explanation(ranking: Sequence[RankedTrial], default: DefaultComparison | None) -> list[str]:
    """Return sentences: which trial is the best, which one is proposed and why, and what the search gained.

    Args:
        ranking: Complete trials, best first; may be empty.
        default: Comparison with the default parameters; None if not available.
    """
    chosen = proposed_of(ranking)
    if chosen is None:
        return []
    return [reason_of(ranking), *([] if default is None else [default_sentence(default, chosen.trial.number)])]


def default_sentence(found: DefaultComparison, proposed_number: int) -> str:
    """Return a sentence with the difference between the proposed trial and the default parameters."""
    if found.number == proposed_number:
        return f"The proposed trial has the default parameters of {found.backbone}."
    return (
        f"Difference to trial {found.number}, the default parameters of {found.backbone} ({found.title} "
        f"{found.score:.4f}): {found}, {DIFFERENCE_NOTE}."
    )


def _is_start(trial: Trial, space: Sequence[Parameter]) -> bool:
    start = starting_point(space, str(trial.params.get("backbone", "")))
    return trial.state == COMPLETE and effective(trial.params) == effective(start)
