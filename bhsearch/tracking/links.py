"""URLs of pages in the MLflow user interface. Does not import MLflow."""

from __future__ import annotations

import os
from urllib.parse import urlsplit, urlunsplit

from bhsearch.tracking import keys

LOCAL = "http://127.0.0.1:5000"  # default address of `mlflow ui`
_KIND = "workflowType=machine_learning"  # otherwise the user interface shows its pages for language models


def is_served() -> bool:
    """Return whether the store is a server, so that viewing needs no `mlflow ui`."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").startswith(("http://", "https://"))


def trials_url(experiment_id: str) -> str:
    """Return the URL of the page that lists the trials of an experiment, best first."""
    return _address() + trials_path(experiment_id)


def parallel_url(experiment_id: str) -> str:
    """Return the URL of the page that shows the trials of the latest study in parallel coordinates."""
    return _address() + parallel_path(experiment_id)


def run_url(experiment_id: str, run_id: str) -> str:
    """Return the URL of the page of a run."""
    return _address() + run_path(experiment_id, run_id)


def trials_path(experiment_id: str) -> str:
    """Return the part of `trials_url` after the host."""
    return f"#/experiments/{experiment_id}/runs?{_KIND}&viewStateShareKey={keys.TABLE_VIEW}"


def parallel_path(experiment_id: str) -> str:
    """Return the fragment (`#/...`) of the address of the parallel-coordinates view in MLflow's user interface."""
    return f"#/experiments/{experiment_id}/runs?{_KIND}&compareRunsMode=CHART&viewStateShareKey={keys.PARALLEL_VIEW}"


def run_path(experiment_id: str, run_id: str) -> str:
    """Return the fragment (`#/...`) of the address of a run in MLflow's user interface."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?{_KIND}"


def _address() -> str:
    """Return the URL of the MLflow user interface, with a trailing slash and without user and password."""
    if not is_served():
        return f"{LOCAL}/"
    parts = urlsplit(os.environ["MLFLOW_TRACKING_URI"])
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/") + "/", "", ""))
