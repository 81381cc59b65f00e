"""Addresses in MLflow's user interface. Imports no MLflow."""

from __future__ import annotations

import os
from urllib.parse import urlsplit, urlunsplit

from bhsearch.tracking import keys

LOCAL = "http://127.0.0.1:5000"  # where `mlflow ui` listens
_KIND = "workflowType=machine_learning"  # else the page shows itself as for language models


def is_served() -> bool:
    """Whether the store is a server, whose page needs no `mlflow ui`."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").startswith(("http://", "https://"))


def trials_url(experiment_id: str) -> str:
    """The trials of an experiment, best first."""
    return _address() + trials_path(experiment_id)


def parallel_url(experiment_id: str) -> str:
    """The trials of the latest study of an experiment in parallel coordinates."""
    return _address() + parallel_path(experiment_id)


def run_url(experiment_id: str, run_id: str) -> str:
    """A run."""
    return _address() + run_path(experiment_id, run_id)


def trials_path(experiment_id: str) -> str:
    """The same within the page."""
    return f"#/experiments/{experiment_id}/runs?{_KIND}&viewStateShareKey={keys.TABLE_VIEW}"


def parallel_path(experiment_id: str) -> str:
    """The same within the page."""
    return f"#/experiments/{experiment_id}/runs?{_KIND}&compareRunsMode=CHART&viewStateShareKey={keys.PARALLEL_VIEW}"


def run_path(experiment_id: str, run_id: str) -> str:
    """The same within the page."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?{_KIND}"


def _address() -> str:
    """Of the page, ending in a slash; without a user and a password."""
    if not is_served():
        return f"{LOCAL}/"
    parts = urlsplit(os.environ["MLFLOW_TRACKING_URI"])
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/") + "/", "", ""))
