"""Saved views of an experiment, which show scores and parameters of the trials in the MLflow user interface.

MLflow stores a saved view as a tag of the experiment. The format is internal to the MLflow minor version that
`pyproject.toml` pins, so it can be verified only in a browser.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from mlflow.utils.validation import MAX_EXPERIMENT_TAG_VAL_LENGTH

from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.tracking import keys, links

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "mlflow.sharedViewState."
TABLE_NAME, PARALLEL_NAME = "Trials, best first", "Parallel coordinates"
_PACKED = "deflate;"
_DIGEST = "digest"  # the page drops this key when a person saves the view; a missing digest marks a changed view
_METRICS = (keys.AUC, keys.AUC_LOW, keys.AUC_HIGH, keys.SECONDS)
_MIXED = (keys.SCORE, keys.SCORE_LOW, keys.SCORE_HIGH)  # before the others if the current study has a mixed score
_SECTION, _CHART = "bhsearch-section", "bhsearch-chart"
_NAME_WIDTH, _CREATED_WIDTH, _METRIC_WIDTH = 250, 125, 90  # pixels
_CARD_HEIGHT = 480  # pixels


def write_views(
    client: MlflowClient, experiment_id: str, uid: str, space: Sequence[Mapping[str, Any]], score: str = keys.AUC
) -> None:
    """Write the saved views of an experiment, and the description if the experiment has none.

    A view that a person changed is not overwritten. The table also keeps columns for the parameters of earlier studies,
    after the columns of the current study. The parallel coordinates show only the current study, because a line needs
    a value for every parameter.

    Args:
        client: Client of the MLflow store.
        experiment_id: The experiment.
        uid: Identifier of the current study.
        space: `name` and `choices` of each parameter of the current study.
        score: Metric with the score of the current study, by which the trials are ordered.
    """
    tags = client.get_experiment(experiment_id).tags
    names = [str(row["name"]) for row in space]
    varied = [str(row["name"]) for row in space if len(row["choices"]) != 1]
    table = [_column("params", name) for name in names]
    table += [column for column in _earlier_columns(tags.get(TAG + keys.TABLE_VIEW)) if column not in table]
    _write(client, experiment_id, tags, keys.TABLE_VIEW, TABLE_NAME, lambda n: _table(n, score), table)
    _write(client, experiment_id, tags, keys.PARALLEL_VIEW, PARALLEL_NAME, lambda n: _parallel(uid, n, score), varied)
    if not tags.get(MLFLOW_RUN_NOTE):
        client.set_experiment_tag(experiment_id, MLFLOW_RUN_NOTE, _note(experiment_id))


def _write(
    client: MlflowClient,
    experiment_id: str,
    tags: Mapping[str, str],
    key: str,
    name: str,
    state: Callable[[Sequence[str]], dict[str, Any]],
    columns: Sequence[str],
) -> None:
    held = tags.get(TAG + key)
    before = _own(held)
    if held is not None and before is None:
        return
    now = int(time.time() * 1000)
    created = now if before is None else before["createdAt"]
    # Keep as many columns as fit into the tag; drop columns from the end.
    fitting = bisect_right(
        range(len(columns) + 1),
        MAX_EXPERIMENT_TAG_VAL_LENGTH,
        key=lambda n: len(_envelope(name, state(columns[:n]), created, now)),
    )
    value = _envelope(name, state(columns[: max(fitting - 1, 0)]), created, now)
    if before is None or before[_DIGEST] != json.loads(value)[_DIGEST]:
        client.set_experiment_tag(experiment_id, TAG + key, value)


def _envelope(name: str, state: Mapping[str, Any], created: int, updated: int) -> str:
    """Return a saved view in the JSON format of the MLflow user interface, ASCII only."""
    packed = _PACKED + base64.b64encode(zlib.compress(json.dumps(state).encode("ascii"), 9)).decode("ascii")
    view = {"name": name, "createdAt": created, "updatedAt": updated, "state": packed}
    return json.dumps(view | {_DIGEST: _digest(view)})


def _digest(view: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{view['name']}\n{view['state']}".encode()).hexdigest()[:16]


def _own(value: str | None) -> dict[str, Any] | None:
    """Parse a view that bhsearch wrote; return None for a view that a person changed or created."""
    try:
        view = json.loads(value or "")
        return view if view[_DIGEST] == _digest(view) else None
    except (ValueError, KeyError, TypeError):
        return None


def _earlier_columns(value: str | None) -> list[str]:
    """Return the parameter columns of a stored table view; empty if a person changed the view."""
    view = _own(value)
    if view is None:
        return []
    state = json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix(_PACKED))))
    return [column for column in state["selectedColumns"] if column.startswith("params.")]


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _best_first(score: str, where: str = "") -> dict[str, Any]:
    """Return the view state that lists trials, best first, and leaves out the runs of studies."""
    trials = f"tags.`{keys.TRIAL}` != '{keys.NO_TRIAL}'"
    return {
        "searchFilter": f"{where} and {trials}" if where else trials,
        "orderByKey": _column("metrics", score),
        "orderByAsc": False,
    }


def _table(columns: Sequence[str], score: str) -> dict[str, Any]:
    metrics = [_column("metrics", name) for name in (*(_MIXED if score == keys.SCORE else ()), *_METRICS)]
    study = _column("tags", keys.STUDY)
    name, created, duration = "attributes.`Run Name`", "runDateAndNestInfo", "duration"
    return _best_first(score) | {
        "selectedColumns": [*metrics, *columns, study],
        "columnOrder": [name, created, *metrics, *columns, study, duration],
        "columnWidths": {name: _NAME_WIDTH, created: _CREATED_WIDTH, **dict.fromkeys(metrics, _METRIC_WIDTH)},
    }


def _parallel(uid: str, names: Sequence[str], score: str) -> dict[str, Any]:
    chart = {
        "uuid": _CHART,
        "type": "PARALLEL",
        "metricSectionId": _SECTION,
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
        "selectedParams": list(names),
        "selectedMetrics": [score],
        "showAllRuns": True,
    }
    section = {
        "uuid": _SECTION,
        "name": PARALLEL_NAME,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
        "columns": 1,
        "cardHeight": _CARD_HEIGHT,
    }
    return _best_first(score, f"tags.`{keys.UID}` = '{uid}'") | {
        "selectedColumns": [_column("metrics", score)],
        "compareRunCharts": [chart],
        "compareRunSections": [section],
        "isAccordionReordered": True,  # otherwise automatically created sections come first
        "runsHiddenMode": "SHOW_ALL",
        "runListHidden": True,
    }


def _note(experiment_id: str) -> str:
    """Return the Markdown description of the experiment."""
    return (
        f"[{TABLE_NAME}]({links.trials_path(experiment_id)}) · "
        f"[{PARALLEL_NAME}]({links.parallel_path(experiment_id)})\n\n"
        "Hyperparameter searches on one data set: a run per study, and below it a run per trial. Scores are out of "
        "fold, over the cases that were searched on; the sealed test is opened by `python -m bhsearch.register` "
        f"only.\n\n{DISCLAIMER}"
    )
