"""The command that opens the MLflow store in the user interface. Does not import MLflow."""

from __future__ import annotations

import os


def viewing_command() -> str:
    """Return the command that opens the store in MLflow's user interface, without its password.

    `mlflow ui` without options opens `mlflow.db` in the working directory and ignores `MLFLOW_TRACKING_URI`.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return "mlflow ui"
    if uri.startswith(("http://", "https://")):
        scheme, _, place = uri.partition("://")
        return f"python -m webbrowser {scheme}://{place.rsplit('@', 1)[-1]}"
    return 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'
