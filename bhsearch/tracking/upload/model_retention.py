"""Keep the models of the best trials of a study in MLflow, and of those that it may propose, and delete the others.

The state is stored as tags of the trials' runs in MLflow, so that it survives a resume and is shared by all processes
that log one study. A model is deleted only after the models of N better trials are complete. MLflow therefore always
has the models of the best N trials, and may briefly have a few more.

A study may propose a cheaper trial with a score up to `MARGIN` below the best (`evaluation.selection.proposal`). Within
this margin, the model of every trial that is cheaper than all better ones is kept as well.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from bhsearch.evaluation.selection.proposal import MARGIN
from bhsearch.objectives.base import MS_PER_IMAGE
from bhsearch.tracking.keys import COST, MODEL, TRIAL, UID, score_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEPT, LEAVING, NONE = "kept", "leaving", "none"
_LOG = logging.getLogger(__name__)


class ModelRetention:
    """The retention policy for the models of one study, which keeps the models of the best and of cheap trials.

    Args:
        client: Client of the MLflow store.
        experiment_id: Experiment of the study.
        uid: Identifier of the study.
        most: Number of the best trials whose models are kept; None for all trials.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, uid: str, most: int | None) -> None:
        self._client, self._experiment_id, self._most = client, experiment_id, most
        self._query = f"tags.`{UID}` = '{uid}' and tags.`{MODEL}` != '{NONE}'"
        self._query += " and attributes.status = 'FINISHED'"
        self._said = False

    def wants(self, score: float, number: int, milliseconds: float) -> bool:
        """Return whether the model of a newly ended trial must be logged.

        Args:
            score: Score of the trial.
            number: Number of the trial.
            milliseconds: Inference time of its deployed model per image; nan or inf if unknown.
        """
        if not self._most:
            return self._most is None
        new = TrialModel(-score, number, milliseconds if math.isfinite(milliseconds) else math.inf)
        return number in kept_trials([*map(_model_of, self._with_model()), new], self._most)

    def tidy(self) -> None:
        """Delete the models of trials that are no longer among the best.

        A failed deletion is retried at the next call. If the number of models to keep is 0 (`--keep-models none`),
        existing models are not deleted.
        """
        if not self._most:
            return
        runs = sorted(self._with_model(), key=_model_of)
        kept = kept_trials([_model_of(run) for run in runs], self._most)
        for run in runs:
            if _model_of(run).number in kept and run.data.tags[MODEL] == KEPT:
                continue
            try:
                self._remove(run)
            except FileNotFoundError:  # another process is deleting the model
                continue
            except (MlflowException, OSError) as error:  # errors of a server include OSError
                self._say(run, error)

    def _with_model(self) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], self._query, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _remove(self, run: Any) -> None:
        """Delete the files first, then the model, so that the next process can finish an interrupted deletion."""
        run_id = run.info.run_id
        ids = [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]
        if any(self._is_registered(run_id, model_id) for model_id in ids):
            return
        self._client.set_tag(run_id, MODEL, LEAVING)
        for model_id in ids:
            try:
                files = get_artifact_repository(self._client.get_logged_model(model_id).artifact_location)
                files.delete_artifacts()  # type: ignore[no-untyped-call]
                self._client.delete_logged_model(model_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # a missing model was deleted by another process
                    raise
        self._forget(run_id)

    def _forget(self, run_id: str) -> None:
        self._client.set_tag(run_id, MODEL, NONE)

    def _is_registered(self, run_id: str, model_id: str) -> bool:
        """Return whether a registered version uses this model, so that its files must be kept."""
        queries = (f"run_id = '{run_id}'", f"source_path = 'models:/{model_id}'")
        return any(self._client.search_model_versions(query, max_results=1) for query in queries)

    def _say(self, run: Any, error: Exception) -> None:
        if not self._said:
            reason = (str(error).splitlines() or [repr(error)])[0]
            _LOG.warning("The model of %s could not be deleted (--keep-models): %s", run.info.run_name, reason)
        self._said = True


class TrialModel(NamedTuple):
    """A trial with a model. Trials are sorted by score, best first, ties in order of their numbers."""

    negative_score: float
    number: int
    milliseconds: float


def _model_of(run: Any) -> TrialModel:
    metrics = run.data.metrics
    score = score_of(metrics)
    assert score is not None  # of every finished run of a trial
    return TrialModel(-score, int(run.data.tags[TRIAL]), metrics.get(f"{COST}{MS_PER_IMAGE}", math.inf))


def kept_trials(models: Sequence[TrialModel], most: int) -> set[int]:
    """Return the numbers of the best trials, and of the cheap ones that the study may propose.

    Args:
        models: All trials with a model.
        most: Number of the best trials to keep, 1 or more.
    """
    ranked = sorted(models)
    kept, cheapest = {model.number for model in ranked[:most]}, math.inf
    for model in ranked:
        if model.negative_score > ranked[0].negative_score + MARGIN:
            break
        if model.milliseconds < cheapest:
            kept.add(model.number)
            cheapest = model.milliseconds
    return kept
