"""MLflow models and artifacts as files on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from bhsearch.errors import RunError, StudyError


def download(uri: str) -> Path:
    """A model's folder on this machine; a temporary copy where the store is elsewhere.

    Raises:
        StudyError: If there is no such model.
    """
    try:
        return Path(mlflow.artifacts.download_artifacts(uri))
    except (MlflowException, OSError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise StudyError(f"A model must be one that this MLflow store has, but {uri!r} is not: {reason}") from error


def keras_file(folder: Path) -> Path:
    """The `.keras` file of an MLflow model.

    Raises:
        RunError: If it has none.
    """
    conf = Model.load(str(folder)).flavors.get("keras")
    file = folder / str((conf or {}).get("data", "data")) / "model.keras"
    if conf is None or not file.is_file():
        raise RunError(f"A model must be a Keras file, but {folder} holds none.")
    return file


def metadata_of(folder: Path) -> dict[str, Any]:
    """What was logged with an MLflow model."""
    return dict(Model.load(str(folder)).metadata or {})


def read_text(uri: str) -> str:
    """An artifact."""
    with tempfile.TemporaryDirectory() as folder:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder)).read_text(encoding="utf-8")
