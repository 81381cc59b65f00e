"""List the studies of an MLflow store from one search of all runs, instead of one search per study."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from bhsearch.tracking import keys
from bhsearch.tracking.reader import search_all
from bhsearch.tracking.requests import call_with_retry

if TYPE_CHECKING:
    from mlflow import MlflowClient

_FINISHED, _FAILED = ("complete", "pruned"), "fail"  # values of the tag that holds the state of a trial


@dataclass(frozen=True)
class StudySummary:
    """The summary of a study in a list of studies.

    Attributes:
        name: Name of the study.
        uid: Identifier that distinguishes the study from others of the same name.
        run_id: MLflow run of the study.
        data: Name of the data set.
        regime: `frozen` or `finetune`.
        n_finished: Number of complete and pruned trials.
        n_failed: Number of failed trials.
        score: Highest trial score, the mean case-weighted AUC over folds or the mixed score; nan if no trial is
            complete.
        low, high: Lower and upper end of the score's 95 % confidence interval, from a bootstrap over cases; nan if the
            run has no interval.
        n_openings: Number of times the sealed test was opened for this study.
        started_ms: Start of the study, in milliseconds since 1970.
        shift_weight: Weight of the shifts in the score (`--score-weight-shift`).
    """

    name: str
    uid: str
    run_id: str
    data: str
    regime: str
    n_finished: int
    n_failed: int
    score: float
    low: float
    high: float
    n_openings: int
    started_ms: int
    shift_weight: float = 0.0


def list_studies(client: MlflowClient) -> list[StudySummary]:
    """Return the studies of the store, most recently started first.

    Raises:
        StudyError: If the store refuses the request.
        RunError: If the store cannot be reached.
    """
    children: dict[str, list[Any]] = defaultdict(list)
    parents = []
    for run in search_all(client, ""):
        if MLFLOW_PARENT_RUN_ID in run.data.tags:
            children[run.data.tags[MLFLOW_PARENT_RUN_ID]].append(run)
        elif run.data.tags.get(keys.TRIAL) == keys.NO_TRIAL:
            parents.append(run)
    names = {
        experiment: call_with_retry(client.get_experiment, experiment).name
        for experiment in {run.info.experiment_id for run in parents}
    }
    found = [_summary(run, names[run.info.experiment_id], children[run.info.run_id]) for run in parents]
    return sorted(found, key=lambda study: study.started_ms, reverse=True)


def _summary(run: Any, data: str, children: Sequence[Any]) -> StudySummary:
    states = [child.data.tags.get(keys.STATE, "") for child in children]
    complete = [c.data.metrics for c in children if c.data.tags.get(keys.STATE) == _FINISHED[0]]
    settings = keys.config_of(run.data.params)
    shift_weight = float(settings.get("score_weight_shift", 0.0))
    score, low, high = (keys.of_score(name, shift_weight > 0) for name in (keys.AUC, keys.AUC_LOW, keys.AUC_HIGH))
    best: dict[str, float] = max(complete, key=lambda metrics: float(metrics.get(score, -math.inf)), default={})
    return StudySummary(
        name=run.data.tags[keys.STUDY],
        uid=run.data.tags[keys.UID],
        run_id=run.info.run_id,
        data=data,
        regime=settings.get("regime", ""),
        n_finished=sum(state in _FINISHED for state in states),
        n_failed=states.count(_FAILED),
        score=best.get(score, math.nan),
        low=best.get(low, math.nan),
        high=best.get(high, math.nan),
        n_openings=sum(child.data.tags.get(keys.OPENED, "none") != "none" for child in children),
        started_ms=run.info.start_time,
        shift_weight=shift_weight,
    )
