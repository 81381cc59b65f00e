"""The command that shows the MLflow store. Imports no MLflow."""

from __future__ import annotations

import os


def viewing_command() -> str:
    """Return a command that opens the store in MLflow's user interface, without its password.

    MLflow's own `mlflow ui` opens `mlflow.db` of the working directory, whatever `MLFLOW_TRACKING_URI` says.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return "mlflow ui"
    if uri.startswith(("http://", "https://")):
        scheme, _, place = uri.partition("://")
        return f"python -m webbrowser {scheme}://{place.rsplit('@', 1)[-1]}"
    return 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'
