"""Keep the models of the best trials of a study in MLflow, and delete the others.

The state is stored as tags of the trials' runs in MLflow, so that it survives a resume and is shared by all processes
that log one study. A model is deleted only after the models of N better trials are complete. MLflow therefore always
has the models of the best N trials, and may briefly have a few more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from bhsearch.tracking.keys import AUC, MODEL, TRIAL, UID

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEPT, LEAVING, NONE = "kept", "leaving", "none"
_LOG = logging.getLogger(__name__)


class ModelRetention:
    """The retention policy for the models of one study, which keeps the models of the best trials.

    Args:
        client: Client of the MLflow store.
        experiment_id: Experiment of the study.
        uid: Identifier of the study.
        most: Number of trials whose models are kept; None for all trials.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, uid: str, most: int | None) -> None:
        self._client, self._experiment_id, self._most = client, experiment_id, most
        self._query = f"tags.`{UID}` = '{uid}' and tags.`{MODEL}` != '{NONE}'"
        self._query += " and attributes.status = 'FINISHED'"
        self._said = False

    def wants(self, score: float, number: int) -> bool:
        """Return whether a newly ended trial is among the best trials, so that its model must be logged."""
        if not self._most:
            return self._most is None
        return sum(_place(run) < (-score, number) for run in self._with_model()) < self._most

    def tidy(self) -> None:
        """Delete the models of trials that are no longer among the best.

        A failed deletion is retried at the next call. If the number of models to keep is 0 (`--keep-models none`),
        existing models are not deleted.
        """
        if not self._most:
            return
        kept = sorted(self._with_model(), key=_place)
        for place, run in enumerate(kept):
            if place < self._most and run.data.tags[MODEL] == KEPT:
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
            page = self._client.search_runs(
                [self._experiment_id], self._query, max_results=1000, order_by=[f"metrics.{AUC} DESC"], page_token=token
            )
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


def _place(run: Any) -> tuple[float, int]:
    """Return the sort key of a run: best first, ties in order of the trials' numbers."""
    return -run.data.metrics[AUC], int(run.data.tags[TRIAL])
